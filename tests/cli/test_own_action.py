"""A user's own action in the training loop, through the command."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.command import error_line, mtfrun_here, tiny_experiment
from tests.training.toy_run import curve

MODULE = """
from mtfrun import training


class Shout(training.Action):
    def __init__(self, every_steps, until=None):
        self.every_steps = every_steps
        self.until = until

    def __call__(self, context):
        context.note(f"HERE IS STEP {context.step}")
        context.summaries.scalars({"shouts": 1.0}, context.step)
        if context.step == self.until:
            context.request_stop("enough")
"""
GIN = """
from __gin__ import dynamic_registration
from mtfrun import experiment
import shouting_actions

experiment.Training.actions = [@shouting_actions.Shout{call}]
shouting_actions.Shout.every_steps = 2
"""


@pytest.fixture
def flags(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "shouting_actions.py").write_text(MODULE)
    (tmp_path / "mine.gin").write_text(GIN.format(call="()"))
    (tmp_path / "uncalled.gin").write_text(GIN.format(call=""))
    monkeypatch.syspath_prepend(tmp_path)
    return [*tiny_experiment(tmp_path), "--gin.TRAIN_STEPS=6", f"--model_dir={tmp_path}/run"]


# By default tests/training/test_actions.py runs a user's action, and test_tensorboard.py adds one
# by a gin line.
@pytest.mark.slow
def test_a_gin_line_adds_an_action_that_ends_training(
    flags: list[str], tmp_path: pathlib.Path
) -> None:
    mine = [f"--gin_file={tmp_path}/mine.gin", "--gin.Shout.until=4"]
    process = mtfrun_here("train", *flags, *mine)
    lines = process.stderr.decode().splitlines()
    assert process.returncode == 0, lines
    assert [line for line in lines if "HERE IS" in line] == ["HERE IS STEP 2", "HERE IS STEP 4"]
    assert "ending at step 4: enough" in lines
    assert curve(f"{tmp_path}/run", "shouts") == {2: 1.0, 4: 1.0}
    assert (tmp_path / "run/checkpoints/ckpt-4.json").exists()


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--gin_file={}/uncalled.gin", "is not an action: give objects of a subclass"),
        ("--gin.EVAL_EVERY=0", "evaluate_every_steps is 0: it must be at least 1"),
        ("--gin.CHECKPOINT_EVERY=0", "CheckpointOptions.every_steps is 0: it must be at least 1"),
    ],
)
def test_an_action_that_cannot_be_called_is_one_line(
    flag: str, expected: str, flags: list[str], tmp_path: pathlib.Path
) -> None:
    assert expected in error_line(mtfrun_here("train", *flags, flag.format(tmp_path)))
    assert not (tmp_path / "run").exists()
