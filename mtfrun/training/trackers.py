"""Trackers, which take the curves of a training elsewhere than into its run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, Self, runtime_checkable

from mtfrun import processes
from mtfrun.display import progress
from mtfrun.errors import InputError, shorten
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.tensorboard.summaries import Listener
from mtfrun.stores import Worker
from mtfrun.untrusted import escape

# Records that wait for a service. Later ones mean that it is slower than the training.
_MOST_WAITING = 10_000
# Seconds that the end of a training waits for all services. Its checkpoint has been saved.
_CLOSE_SECS = 300.0
_ERROR_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class TrackerRecord:
    """Points of curves.

    Attributes:
      run: has config.gin, the metrics of former evaluations, and the state of the training.
      resumed_step: where this process has begun, 0 for a new run.
      step: finished steps.
      values: by "train/" or "eval/" and the tag in TensorBoard; may be infinite or NaN.
    """

    run: RunDirectory
    resumed_step: int
    step: int
    values: Mapping[str, float]


@runtime_checkable
class Tracker(Protocol):
    """Takes the curves of a training to an experiment tracker.

    Both methods are called in one thread beside the training, of the first process only. An error
    of either ends the tracker, and not the training.
    """

    def log(self, record: TrackerRecord) -> None: ...

    def close(self) -> None:
        """Called at the end, also after an error of `log`, and not without a call of `log`."""


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Raises InputError unless all are trackers."""
    for tracker in trackers:
        if isinstance(tracker, type) or not isinstance(tracker, Tracker):
            raise InputError(
                f"{tracker!r} is not a tracker: give objects with log(record) and close(), in a "
                "gin file Training.trackers = [@trackers.MLflow()]"
            )


class Trackers:
    """The trackers of a training; a context, at whose end they are closed.

    Training never waits for a service before its end, and then `close_secs`. Of a tracker that
    fails a warning says so once.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        run: RunDirectory,
        resumed_step: int,
        close_secs: float = _CLOSE_SECS,
    ) -> None:
        self._run = run
        self._resumed_step = resumed_step
        self._close_secs = close_secs
        self._workers = [_Thread(tracker) for tracker in trackers] if processes.is_first() else []

    def listener(self, kind: str) -> Listener | None:
        """Returns what takes the scalars of the directory `kind`, "train" or "eval"."""
        if not self._workers:
            return None

        def listen(values: Mapping[str, float], step: int) -> None:
            by_name = {f"{kind}/{tag}": value for tag, value in values.items()}
            record = TrackerRecord(self._run, self._resumed_step, step, by_name)
            for worker in self._workers:
                worker.put(record)

        return listen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + self._close_secs
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            if not worker.end(max(0.0, deadline - time.monotonic())):
                worker.give_up(f"it has not taken everything in {self._close_secs:.0f} seconds")


class _Thread:
    """A thread that hands records to a tracker; it starts with the first one."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._worker: Worker[TrackerRecord] = Worker(self._work, "tracker")
        self._error = ""
        self._is_over = False

    def put(self, record: TrackerRecord) -> None:
        if not self._is_over and len(self._worker.waiting) >= _MOST_WAITING:
            self.give_up(f"{_MOST_WAITING:,} records are waiting for it")
        self._warn()
        if not self._is_over:
            self._worker.put(record)

    def end(self, secs: float = 0.0) -> bool:
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
