from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from mtfrun.errors import ExitCode

# Seconds for printing and cleaning up: the standard streams may be blocked.
_LAST_SECS = 5.0


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds that processes wait for each other.

    `join_secs`: for all processes of a run. `heartbeat_secs`: between heartbeats. `silence_secs`:
    without a heartbeat, until a process counts as lost; longer than native calls that hold Python's
    lock. `failure_secs`: from an error of one process until all have the same one.
    """

    join_secs: float = 300.0
    heartbeat_secs: float = 1.0
    silence_secs: float = 20.0
    failure_secs: float = 5.0

    @property
    def consequence_secs(self) -> float:
        """How long an error waits for a loss of another process that may have caused it."""
        return self.silence_secs + self.failure_secs


class Monitor:
    """Ends this process on demand, from any thread, even if all other threads wait in native code.

    `before_exit` is called first; no block is left, so nothing else removes temporary files.
    """

    def __init__(self, before_exit: Callable[[], object] = lambda: None):
        self._before_exit = before_exit
        self._saved_step: int | None = None
        self._ending = threading.Lock()

    def note_saved(self, step: int) -> None:
        """0: no step is saved yet."""
        self._saved_step = step

    def line(self, cause: str) -> str:
        saved = "" if self._saved_step is None else "; no step was saved"
        if self._saved_step:
            saved = f"; step {self._saved_step} is saved, and the same command resumes from there"
        return f"mtfrun: error: {cause}{saved}"

    def end(self, cause: str) -> NoReturn:
        self._ending.acquire()  # for ever: only one cause is printed

        def last_words() -> None:
            with contextlib.suppress(Exception):
                print(self.line(cause), file=sys.stderr, flush=True)
            with contextlib.suppress(Exception):
                self._before_exit()

        printing = threading.Thread(target=last_words, daemon=True)
        printing.start()
        printing.join(_LAST_SECS)
        os._exit(ExitCode.LOST_PROCESS)
