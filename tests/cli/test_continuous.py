"""Evaluation that follows a training run."""

from __future__ import annotations

import pathlib

from mtfrun.cli.continuous import steps_as_they_appear
from mtfrun.rundir import RunDirectory


class _Run(RunDirectory):
    """A run whose checkpoints are a list of numbers."""

    def __init__(self, path: pathlib.Path, saved: list[int]):
        super().__init__(path)
        self.saved = saved

    def checkpoints(self, *, max_to_keep: int | None = 5):  # type: ignore[override]
        return self

    def steps(self) -> list[int]:
        return list(self.saved)


def test_new_checkpoints_are_evaluated_until_training_has_ended(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path, [10])
    lock = run.lock()
    lock.__enter__()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            run.saved.append(20)
        if len(slept) == 3:
            run.saved.append(30)  # the last one, and training ends
            lock.__exit__(None, None, None)

    assert list(steps_as_they_appear(run, sleep)) == [10, 20, 30]
    assert len(slept) == 3


def test_without_training_every_checkpoint_is_evaluated_once(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path, [1, 2, 3])
    assert list(steps_as_they_appear(run, lambda seconds: None)) == [1, 2, 3]
