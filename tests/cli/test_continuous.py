"""Evaluation of checkpoints while a run is trained."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import tensorflow as tf

from mtfrun.cli.commands.eval import restore_steps, steps_as_they_appear
from mtfrun.files import DamagedCheckpointError
from mtfrun.rundir import RunDirectory

LAST_STEP = 100


class _Run(RunDirectory):
    """A run whose checkpoints are a list of numbers."""

    def __init__(self, path: pathlib.Path, saved: list[int]) -> None:
        super().__init__(path)
        self.saved = saved

    def checkpoints(self, *, max_to_keep: int | None = 5) -> Any:
        """Returns itself, which has `steps`."""
        return self

    def steps(self) -> list[int]:
        return list(self.saved)

    def identity(self, step: int) -> int:
        return step

    def is_of_last_step(self, step: int) -> bool:
        return step == LAST_STEP


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

    assert list(steps_as_they_appear(run, sleep=sleep)) == [10, 20, 30]
    assert len(slept) == 3


def test_without_training_every_checkpoint_is_evaluated_once(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path, [1, 2, 3])
    assert list(steps_as_they_appear(run, sleep=lambda seconds: None)) == [1, 2, 3]


def test_with_a_time_out_an_interrupted_run_is_waited_for(tmp_path: pathlib.Path) -> None:
    """No process trains; after the time-out, or after the last step, nothing is waited for."""
    run, now = _Run(tmp_path, [10]), [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] == 30.0:
            run.saved.append(20)

    appearing = steps_as_they_appear(run, 50.0, sleep, lambda: now[0])
    assert list(appearing) == [10, 20]
    assert now[0] == 80.0
    run.saved.append(LAST_STEP)
    assert list(steps_as_they_appear(run, 50.0, sleep, lambda: now[0])) == [10, 20, LAST_STEP]
    assert now[0] == 80.0


def test_a_step_that_is_saved_again_is_evaluated_again(tmp_path: pathlib.Path) -> None:
    variable = tf.Variable(0.0)
    checkpoints = RunDirectory(tmp_path).checkpoints()
    checkpoints.save(1, {"x": variable})
    appearing = steps_as_they_appear(RunDirectory(tmp_path))
    assert next(appearing) == 1
    checkpoints.save(1, {"x": variable})
    assert list(appearing) == [1]


def test_the_first_checkpoint_is_waited_for_while_a_process_trains(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path, [])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        run.saved.append(1)

    with run.lock():
        assert next(steps_as_they_appear(run, sleep=sleep)) == 1
    assert len(slept) == 1
    run.saved.clear()
    assert list(steps_as_they_appear(run, sleep=slept.append)) == []
    assert len(slept) == 1, "nothing trains: the command says what is missing"


def test_a_checkpoint_that_the_trainer_deletes_is_left_out(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of real checkpoints the second is deleted while the first is evaluated.

    The third one is deleted while it is read.
    """
    variable = tf.Variable(0.0)
    checkpoints = RunDirectory(tmp_path).checkpoints(max_to_keep=None)
    for step in (1, 2, 3, 4):
        variable.assign(float(step))
        checkpoints.save(step, {"x": variable})
    folder = tmp_path / "checkpoints"

    def delete(step: int) -> None:
        (folder / f"ckpt-{step}.json").unlink()
        checkpoints.clean()

    def restore(step: int) -> None:
        if step == 3:
            delete(3)
        checkpoints.restore(step, {"x": variable})

    values = []
    for step in restore_steps(RunDirectory(tmp_path), [1, 2, 3, 4], restore):
        values.append(float(variable.numpy()))
        if step == 1:
            delete(2)
    assert values == [1.0, 4.0]
    assert capsys.readouterr().err.splitlines() == [
        f"step {step}: deleted before it was read, left out" for step in (2, 3)
    ]


def test_a_checkpoint_that_is_damaged_is_an_error(tmp_path: pathlib.Path) -> None:
    variable = tf.Variable(0.0)
    checkpoints = RunDirectory(tmp_path).checkpoints()
    checkpoints.save(1, {"x": variable})
    (tmp_path / "checkpoints/ckpt-1.index").unlink()
    restored = restore_steps(
        RunDirectory(tmp_path), [1], lambda step: checkpoints.restore(step, {"x": variable})
    )
    with pytest.raises(DamagedCheckpointError):
        next(restored)
    left_out = restore_steps(
        RunDirectory(tmp_path),
        [1],
        lambda step: checkpoints.restore(step, {"x": variable}),
        leave_out_damaged=True,
    )
    assert list(left_out) == []
