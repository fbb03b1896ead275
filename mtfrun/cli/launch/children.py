from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, TextIO

from mtfrun.processes.child_process import start_child

_POLL_SECS = 0.05
# For the last output, after which only processes that the children have started may write more.
_LAST_SECS = 1.0
_CHUNK_BYTES = 1 << 16
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_ERROR, _WARNING = b"mtfrun: error: ", b"mtfrun: warning: "


class Children:
    """Started processes, of which process 0 alone has standard input and standard output.

    After the first failure stopped processes (SIGSTOP) are killed, and `grace_secs` later the rest,
    which should have noticed it and left unless they wait in native code. `typed` is the
    launcher's command line. `codes` are exit codes in the order of the ends, negative for signals.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        typed: Sequence[str],
        environment: Mapping[str, str],
        output: Output,
        *,
        stdin: int | None = None,
        grace_secs: float,
    ) -> None:
        self.codes: dict[int, int] = {}
        self.killed: set[int] = set()
        self._grace_secs = grace_secs
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        try:
            for number, command in enumerate(commands):
                process = start_child(
                    command,
                    typed,
                    environment,
                    stdin=subprocess.DEVNULL if number or stdin is None else subprocess.PIPE,
                    stdout=subprocess.PIPE if number else None,
                    stderr=subprocess.PIPE,
                )
                self._processes.append(process)
                for stream in filter(None, (process.stdout, process.stderr)):
                    self._readers.append(_start_thread(output.forward, number, stream))
        except OSError:
            self.close()
            raise
        if stdin is not None:
            # Not inherited by the process: a terminal stops a reader that is in the background.
            _start_thread(_forward, stdin, self._processes[0].stdin)

    @property
    def running(self) -> list[int]:
        return [number for number in range(len(self._processes)) if number not in self.codes]

    def send_signal(self, number: int) -> None:
        for process in self.running:
            self._processes[process].send_signal(number)

    def kill(self, *, only_stopped: bool = False) -> None:
        options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT  # does not wait
        for number in self.running:
            process = self._processes[number]
            if not only_stopped or os.waitid(os.P_PID, process.pid, options) is not None:
                process.kill()
                self.killed.add(number)

    def wait(self, is_stopping: Callable[[], bool]) -> None:
        """Waits until all have ended; after a failure kills all that remain.

        If all were told to end (`is_stopping`), an exit code other than 0 is not a failure.
        """
        kill_at = math.inf
        while self.running:
            time.sleep(_POLL_SECS)
            for number in self.running:
                code = self._processes[number].poll()
                if code is not None:
                    self.codes[number] = code
                    if code and not is_stopping():
                        kill_at = min(kill_at, time.monotonic() + self._grace_secs)
            if kill_at < math.inf:
                self.kill(only_stopped=time.monotonic() < kill_at)
        for reader in self._readers:
            reader.join(_LAST_SECS)

    def close(self) -> None:
        self.kill()
        for process in self._processes:
            process.wait()


def _start_thread(work: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _forward(source: int, target: IO[bytes]) -> None:
    with contextlib.suppress(OSError), target:
        while content := os.read(source, _CHUNK_BYTES):
            target.write(content)
            target.flush()


class Output:
    """Lines of process 1 start with "[1]"; equal errors and warnings are printed once.

    In a conversation, process 0 asks questions that end no line.
    """

    def __init__(self, stream: TextIO, *, is_conversation: bool = False) -> None:
        self.has_error = False
        self._is_conversation = is_conversation
        self._stream = stream
        self._messages: set[bytes] = set()
        self._lock = threading.Lock()

    def forward(self, process: int, stream: IO[bytes]) -> None:
        """Prints what a process writes, until it closes the stream."""
        chunks: Iterable[bytes] = stream
        if process == 0 and self._is_conversation:
            chunks = iter(lambda: os.read(stream.fileno(), _CHUNK_BYTES), b"")
        with stream:
            for chunk in chunks:
                for line in _LINES.findall(chunk):
                    self._print(process, line)

    def note(self, text: str) -> None:
        self._print(0, os.fsencode(f"mtfrun: {text}\n"))

    def error(self, text: str) -> None:
        self._print(0, _ERROR + os.fsencode(f"{text}\n"))

    def forget(self) -> None:
        """Forgets printed messages, for another start."""
        self.has_error = False
        self._messages.clear()

    def _print(self, process: int, line: bytes) -> None:
        with self._lock:
            if line.startswith((_ERROR, _WARNING)):
                if line in self._messages:
                    return
                self._messages.add(line)
                self.has_error |= line.startswith(_ERROR)
            elif process:
                line = b"[%d] %s" % (process, line)
            if not (self._is_conversation or line.endswith(b"\n")):
                line += b"\n"
            self._stream.write(line.decode("utf-8", "replace"))
            self._stream.flush()
