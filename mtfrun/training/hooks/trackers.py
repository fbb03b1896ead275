"""Trackers, which take the curves of a training elsewhere than into its run directory."""

from __future__ import annotations

import abc
import contextlib

from mtfrun.display import progress
from mtfrun.errors import shorten
from mtfrun.errors.untrusted import escape
from mtfrun.files import Worker
from mtfrun.training.hooks.hook import Hook, ScalarRecord

# Records that wait for a service. Later ones mean that it is slower than the training.
_MOST_WAITING = 10_000
_ERROR_CHARACTERS = 200


class Tracker(Hook, abc.ABC):
    """Takes the curves of a training to an experiment tracker.

    `log` and `close` are called in a thread of the first process. Training never waits for the
    service before its end, and then `close_secs`. An error of either method ends the tracker with a
    warning, and not the training.
    """

    close_secs: float = 300.0
    _thread: _Thread | None = None

    @abc.abstractmethod
    def log(self, record: ScalarRecord) -> None:
        """Takes the points of the curves at a step."""

    @abc.abstractmethod
    def close(self) -> None:
        """Called at the end, also after an error of `log`, and not without a call of `log`."""

    def after_scalars(self, record: ScalarRecord) -> None:
        if self._thread is None:
            self._thread = _Thread(self)
        self._thread.put(record)

    def end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None and not thread.end(self.close_secs):
            thread.give_up(f"it has not taken everything in {self.close_secs:.0f} seconds")


class _Thread:
    """A thread that hands records to a tracker; it starts with the first one."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._worker: Worker[ScalarRecord] = Worker(self._work, "tracker")
        self._error = ""
        self._is_over = False

    def put(self, record: ScalarRecord) -> None:
        if not self._is_over and len(self._worker.waiting) >= _MOST_WAITING:
            self.give_up(f"{_MOST_WAITING:,} records are waiting for it")
        self._warn()
        if not self._is_over:
            self._worker.put(record)

    def end(self, secs: float) -> bool:
        """Returns whether the tracker is closed, after so many seconds at most."""
        is_closed = self._worker.stop(secs)
        self._warn()
        return is_closed

    def give_up(self, error: str) -> None:
        self._error = self._error or error
        self._warn()

    def _warn(self) -> None:
        """Prints the error in the thread of the training, whose lines do not mix."""
        if self._error and not self._is_over:
            self._is_over = True
            name = type(self._tracker).__name__
            text = f"{name} gets no more records of this training: {self._error}"
            progress.note(progress.warning(text))

    def _work(self) -> None:
        try:
            try:
                while (record := self._worker.take()) is not None and not self._is_over:
                    self._tracker.log(record)
            except Exception:
                with contextlib.suppress(Exception):
                    self._tracker.close()
                raise
            self._tracker.close()
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            self._error = shorten(escape(line), _ERROR_CHARACTERS)
