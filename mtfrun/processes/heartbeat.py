"""How long processes wait for a heartbeat, and the end of this process when another one is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

LOST = 4
"""The exit code of a process that ends because another one has failed or is lost."""

# Seconds for printing and cleaning up: the standard streams may be blocked.
_LAST_SECS = 5.0


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds that processes wait for each other.

    Attributes:
      join_secs: until all processes of a run have come.
      heartbeat_secs: between two heartbeats of a process.
      silence_secs: without a heartbeat until a process counts as lost; longer than any native
        call that holds Python's lock.
      failure_secs: that an error of one process waits for the same error of all others.
    """

    join_secs: float = 300.0
    heartbeat_secs: float = 1.0
    silence_secs: float = 20.0
    failure_secs: float = 5.0

    @property
    def consequence_secs(self) -> float:
        """That an error which the loss of another process may have caused waits for that loss."""
        return self.silence_secs + self.failure_secs


class Monitor:
    """Ends this process when it is told to, in any thread, even if all others wait in native code.

    Args:
      before_exit: called before the process ends; no block is left then, so that nothing else
        removes temporary files.
    """

    def __init__(self, before_exit: Callable[[], object] = lambda: None):
        self._before_exit = before_exit
        self._saved_step: int | None = None
        self._ending = threading.Lock()

    def note_saved(self, step: int) -> None:
        """Notes the newest step that is saved, 0 for none yet."""
        self._saved_step = step

    def line(self, cause: str) -> str:
        """Returns the printed line: the cause, and the step that is saved."""
        if self._saved_step is None:
            return f"mtfrun: error: {cause}"
        if not self._saved_step:
            return f"mtfrun: error: {cause}; no step was saved"
        return (
            f"mtfrun: error: {cause}; step {self._saved_step} is saved, and the same command "
            "resumes from there"
        )

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
        os._exit(LOST)
