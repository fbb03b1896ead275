"""An action of training that makes one process of several fail, once."""

from __future__ import annotations

import os
import pathlib
import signal
import threading

from mtfrun import processes, training


class FailOnce(training.Action):
    """Lets a process fail at a step, unless a file says that it has done so before.

    Args:
      process: the number of the process.
      step: where it fails.
      how: "SIGKILL", "SIGSTOP", "raise", "SIGTERM", which the process's parent gets, or "SIGSTOP
        between actions", some time after the step.
      file: its path; the launcher gives all processes the same one.
    """

    def __init__(self, process: int, step: int, how: str, file: str):
        self.every_steps = step
        self._process = process
        self._how = how
        self._file = pathlib.Path(file)

    def __call__(self, context: training.ActionContext) -> None:
        """Fails."""
        if processes.index() != self._process or self._file.exists():
            return
        self._file.write_text(str(context.step))
        if self._how == "raise":
            raise RuntimeError("for a test")
        if self._how == "SIGTERM":
            os.kill(os.getppid(), signal.SIGTERM)
        elif self._how == "SIGSTOP between actions":
            threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGSTOP]).start()
        else:
            os.kill(os.getpid(), signal.Signals[self._how])
