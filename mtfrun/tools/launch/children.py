from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from mtfrun.processes.supervisor import start_child
from mtfrun.tools.launch.output import Output

_POLL_SECS = 0.05
_CHUNK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Start:
    command: Sequence[str]
    typed: Sequence[str]
    environment: Mapping[str, str]


class Children:
    """Started processes, of which process 0 alone has standard input and standard output.

    All that remain `grace_secs` after the first failure are killed: they notice it and leave,
    unless they are stopped or wait in native code. `codes` are exit codes in the order of the ends,
    negative for signals.
    """

    def __init__(
        self,
        starts: Sequence[Start],
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
            for number, start in enumerate(starts):
                self._start(number, start, has_input=number == 0 and stdin is not None)
        except OSError:
            self.kill()
            raise
        pipe = self._processes[0].stdin
        if pipe is not None and stdin is not None:
            # Not inherited by the process: a terminal stops a reader that is in the background.
            threading.Thread(target=_forward, args=(stdin, pipe), daemon=True).start()

    def _start(self, number: int, start: Start, *, has_input: bool) -> None:
        process = start_child(
            start.command,
            start.typed,
            start.environment,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=None if number == 0 else subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._processes.append(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                self._selector.register(stream, selectors.EVENT_READ, number)

    @property
    def running(self) -> list[int]:
        return [number for number in range(len(self._processes)) if number not in self.codes]

    def send_signal(self, number: int) -> None:
        for process in self.running:
            self._processes[process].send_signal(number)

    def kill(self) -> None:
        for process in self.running:
            self._processes[process].kill()
            self.killed.add(process)

    def wait(self, is_stopping: Callable[[], bool]) -> None:
        # If all were told to end, an exit code other than 0 is not a failure.
        """Forwards output until all have ended; after a failure kills all that remain."""
        while self.running:
            self._forward_output(_POLL_SECS)
            for number in self.running:
                code = self._processes[number].poll()
                if code is not None:
                    self.codes[number] = code
                    if code and self._kill_at is None and not is_stopping():
                        self._kill_at = time.monotonic() + self._grace_secs
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self.kill()
        # Processes that they have started may keep the streams open: only what is there by now.
        while self._forward_output(0.0):
            pass
        for number in range(len(self._processes)):
            self._output.finish(number)
        self.close()

    def close(self) -> None:
        self.kill()
        for process in self._processes:
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
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


def _forward(source: int, target: IO[bytes]) -> None:
    with contextlib.suppress(OSError), target:
        while content := os.read(source, _CHUNK_BYTES):
            target.write(content)
            target.flush()
