"""Trackers take the curves of a training, and never end it."""

from __future__ import annotations

import dataclasses
import pathlib
import threading
from collections.abc import Mapping

import pytest

from mtfrun.extras.monitoring.trackers import Tracker
from mtfrun.rundir import RunDirectory
from mtfrun.training import ScalarRecord
from mtfrun.training.hooks.hook import listener


@dataclasses.dataclass(eq=False)
class Listing(Tracker):
    """Keeps what it takes; it fails, or waits, at a step."""

    failing_step: int | None = None
    waits: threading.Event | None = None
    taken: list[tuple[int, int, Mapping[str, float]]] = dataclasses.field(default_factory=list)
    closed: int = 0

    def log(self, record: ScalarRecord) -> None:
        if record.step == self.failing_step:
            raise ConnectionError("no \x1b[31mroute\nto host")
        if self.waits is not None:
            self.waits.wait()
        self.taken.append((record.resumed_step, record.step, record.values))

    def close(self) -> None:
        self.closed += 1


def _track(directory: pathlib.Path, *trackers: Listing) -> None:
    """Writes a point of a curve for each of four steps, and one of an evaluation."""
    run = RunDirectory(directory)
    for kind in ("train", "eval"):
        with run.summaries(kind, listener=listener(trackers, run, 7, kind)) as summaries:
            for step in range(1, 5 if kind == "train" else 2):
                summaries.scalars({"loss": 1.0 / step}, step)
    for tracker in trackers:
        tracker.end()


def test_a_tracker_takes_the_scalars_of_both_directories_and_is_closed(
    tmp_path: pathlib.Path,
) -> None:
    tracker = Listing()
    _track(tmp_path, tracker)
    curve = [(7, step, {"train/loss": 1.0 / step}) for step in range(1, 5)]
    assert tracker.taken == [*curve, (7, 1, {"eval/loss": 1.0})]
    assert tracker.closed == 1


def test_a_tracker_that_fails_is_closed_and_named_once(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, other = Listing(failing_step=2), Listing()
    _track(tmp_path, failing, other)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "mtfrun: warning: Listing gets no more records of this training: "
        "ConnectionError: no \\x1b[31mroute to host"
    ]
    assert len(failing.taken) == 1 and failing.closed == 1
    assert len(other.taken) == 5


def test_a_service_that_does_not_answer_does_not_keep_a_training_from_its_end(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Listing(waits=threading.Event())
    tracker.close_secs = 0.1
    _track(tmp_path, tracker)
    assert tracker.waits is not None
    tracker.waits.set()
    assert "it has not taken everything" in capsys.readouterr().err


def test_a_tracker_without_records_is_not_opened() -> None:
    tracker = Listing()
    tracker.end()
    assert not tracker.closed
