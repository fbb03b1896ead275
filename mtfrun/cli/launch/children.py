from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TextIO

from mtfrun.processes.child_process import start_child

_POLL_SECS = 0.05
_CHUNK_BYTES = 1 << 16
_ERROR, _WARNING = b"mtfrun: error: ", b"mtfrun: warning: "
_OWN = b"mtfrun: "


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
        self._output = output
        self._grace_secs = grace_secs
        self._kill_at: float | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
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
                    self._selector.register(stream, selectors.EVENT_READ, number)
        except OSError:
            self.kill()
            raise
        pipe = self._processes[0].stdin
        if pipe is not None and stdin is not None:
            # Not inherited by the process: a terminal stops a reader that is in the background.
            threading.Thread(target=_forward, args=(stdin, pipe), daemon=True).start()

    @property
    def running(self) -> list[int]:
        return [number for number in range(len(self._processes)) if number not in self.codes]

    def send_signal(self, number: int) -> None:
        for process in self.running:
            self._processes[process].send_signal(number)

    def kill(self, *, only_stopped: bool = False) -> None:
        for process in self.running:
            if not only_stopped or _is_stopped(self._processes[process].pid):
                self._processes[process].kill()
                self.killed.add(process)

    def wait(self, is_stopping: Callable[[], bool]) -> None:
        """Forwards output until all have ended; after a failure kills all that remain.

        If all were told to end (`is_stopping`), an exit code other than 0 is not a failure.
        """
        while self.running:
            self._forward_output(_POLL_SECS)
            for number in self.running:
                code = self._processes[number].poll()
                if code is not None:
                    self.codes[number] = code
                    if code and self._kill_at is None and not is_stopping():
                        self._kill_at = time.monotonic() + self._grace_secs
            if self._kill_at is not None:
                self.kill(only_stopped=time.monotonic() < self._kill_at)
        # Processes that they have started may keep the streams open: only forward output so far.
        while self._forward_output(0.0):
            pass
        for number in range(len(self._processes)):
            self._output.finish(number)
        self.close()

    def close(self) -> None:
        self.kill()
        for process in self._processes:
            process.wait()
            for stream in filter(None, (process.stdout, process.stderr)):
                stream.close()
        self._selector.close()

    def _forward_output(self, secs: float) -> bool:
        """Returns whether anything arrived within some seconds."""
        ready = self._selector.select(secs) if self._selector.get_map() else []
        if not ready and secs:
            time.sleep(0.0 if self._selector.get_map() else secs)
        for key, _ in ready:
            content = os.read(key.fd, _CHUNK_BYTES)
            if content:
                self._output.add(key.data, content)
            else:
                self._selector.unregister(key.fileobj)
        return bool(ready)


def _is_stopped(pid: int) -> bool:
    """Returns whether a signal has stopped a child of this process, without waiting for it."""
    options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, options) is not None


def _forward(source: int, target: IO[bytes]) -> None:
    with contextlib.suppress(OSError), target:
        while content := os.read(source, _CHUNK_BYTES):
            target.write(content)
            target.flush()


class Output:
    """Lines of process 1 start with "[1]"; equal errors and warnings are printed once."""

    def __init__(self, stream: TextIO, *, is_conversation: bool = False) -> None:
        """In a conversation, process 0 asks questions that end no line."""
        self._is_conversation = is_conversation
        self.errors: list[str] = []
        self._stream = stream
        self._messages: set[bytes] = set()
        self._unfinished: dict[int, bytes] = {}

    def add(self, process: int, content: bytes) -> None:
        """Adds output of a process, and prints its complete lines."""
        *lines, unfinished = (self._unfinished.get(process, b"") + content).split(b"\n")
        for line in lines:
            self._print_line(process, line)
        if process == 0 and self._is_conversation and not _may_become_message(unfinished):
            self._write(unfinished)
            unfinished = b""
        self._unfinished[process] = unfinished

    def finish(self, process: int) -> None:
        unfinished = self._unfinished.pop(process, b"")
        if unfinished:
            self._print_line(process, unfinished)

    def note(self, text: str) -> None:
        self._write(_OWN + os.fsencode(text) + b"\n")

    def error(self, text: str) -> None:
        self._print_line(0, _ERROR + os.fsencode(text))

    def forget(self) -> None:
        """Forgets printed messages, for another start."""
        self.errors.clear()
        self._messages.clear()

    def _print_line(self, process: int, line: bytes) -> None:
        if line.startswith((_ERROR, _WARNING)):
            if line in self._messages:
                return
            self._messages.add(line)
            if line.startswith(_ERROR):
                self.errors.append(_text(line))
        elif process:
            line = b"[%d] %s" % (process, line)
        self._write(line + b"\n")

    def _write(self, content: bytes) -> None:
        if content:
            self._stream.write(_text(content))
            self._stream.flush()


def _may_become_message(start: bytes) -> bool:
    return _OWN.startswith(start) or start.startswith(_OWN)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
