"""Texts and actions of a user."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.command import (
    TINY,
    TWO_STEPS,
    error_line,
    mtfrun_here,
    succeeded,
    tiny_experiment,
    tiny_pairs_experiment,
)

FLAGS = [
    "--gin_file=defaults.gin",
    "--gin_file=models/lm_tiny.gin",
    "--gin_file=data/text_files.gin",
    *TINY,
    *TWO_STEPS,
]


@pytest.mark.slow
def test_a_single_file_is_trained_and_evaluated_on(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "input.txt"
    file.write_text("".join(f"{i}: the quick brown fox\n" for i in range(2000)))
    run = f"--model_dir={tmp_path}/run"
    flags = [f"--gin.TEXT_FILES='{file}'", "--gin.Entropies.orders=[1]"]
    succeeded(mtfrun_here("train", *FLAGS, *flags, run))
    (validation,) = succeeded(mtfrun_here("eval", run))
    assert validation["step"] == 2 and validation["loss"] > 0
    (test,) = succeeded(mtfrun_here("eval", run, "--gin.EVAL_SPLIT='test'"))
    assert test["order_1_entropy"] != validation["order_1_entropy"]


def test_a_file_without_a_byte_for_a_split_is_one_line(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "input.txt"
    file.write_text("ab")
    flags = [*FLAGS, f"--gin.TEXT_FILES='{file}'", f"--model_dir={tmp_path}/run"]
    process = mtfrun_here("train", *flags)
    assert process.returncode == 2
    line = process.stderr.decode().splitlines()[-1]
    assert f"{file} is the only file and too small to be split: none of its 2 byte(s)" in line


@pytest.mark.parametrize(("bad", "tabs"), [("no tab", 0), ("a\tb\tc", 2), ("", 0)])
def test_a_line_of_pairs_without_one_tab_is_named(
    bad: str, tabs: int, tmp_path: pathlib.Path
) -> None:
    flags = tiny_pairs_experiment(tmp_path)
    lines = (tmp_path / "train.tsv").read_text().split("\n")
    lines.insert(299, bad)
    (tmp_path / "train.tsv").write_text("\n".join(lines))
    line = error_line(mtfrun_here("train", *flags, f"--model_dir={tmp_path}/run"))
    assert line == (
        f"mtfrun: error: {tmp_path}/train.tsv:300: a line needs one tab, between inputs, "
        f"targets; this one has {tabs}; correct or delete it, or leave out bad records with "
        "Tsv.skip_bad_records=1 or more"
    )


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


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--gin_file={}/uncalled.gin", "is not a training.Action"),
        ("--gin.EVAL_EVERY=0", "evaluate_every_steps is 0: it must be at least 1"),
        ("--gin.CHECKPOINT_EVERY=0", "CheckpointOptions.every_steps is 0: it must be at least 1"),
    ],
)
def test_an_action_that_cannot_be_called_is_one_line(
    flag: str, expected: str, flags: list[str], tmp_path: pathlib.Path
) -> None:
    assert expected in error_line(mtfrun_here("train", *flags, flag.format(tmp_path)))
    assert not (tmp_path / "run").exists()
