"""Trainings of the command that are disturbed on purpose."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.cli.command import error_line, mtfrun, mtfrun_here, tiny_experiment

STEPS, EVERY = 40, 5

MISTAKES = {
    "another command": (
        ["-n", "1", "--chaos=PLAN", "--", "eval", "--model_dir=/nowhere/run"],
        "--chaos disturbs a training, not eval",
    ),
    "a smaller mesh": (
        ["-n", "2", "--chaos=PLAN", "--max_restarts=1", "--elastic", "--", "train", "TINY"],
        "--chaos compares bits, which another mesh changes: leave --elastic out",
    ),
    "a restart": (
        ["-n", "1", "--chaos=PLAN", "--", "train", "TINY", "--restart"],
        "--chaos needs a new --model_dir: leave --restart out",
    ),
    "nothing to compare": (
        ["-n", "1", "--against=/nowhere", "--", "train", "TINY"],
        "--against names the run to compare with --chaos: give both",
    ),
    "no plan": (["-n", "1", "--chaos=", "--", "train", "TINY"], "--chaos needs a name"),
    "no file": (["-n", "1", "--chaos=no.gin", "--", "train", "TINY"], "no.gin"),
    "a fault of two processes": (
        ["-n", "1", "--chaos=PLAN", "--", "train", "TINY"],
        "Stop needs a second process",
    ),
}


def _written_plan(directory: pathlib.Path, text: str) -> str:
    (directory / "plan.gin").write_text(text)
    return f"--chaos={directory}/plan.gin"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_anything_starts(name: str, tmp_path: pathlib.Path) -> None:
    words, message = MISTAKES[name]
    plan = _written_plan(tmp_path, "Chaos.events = [@Stop()]")
    tiny = [*tiny_experiment(tmp_path), f"--model_dir={tmp_path}/run"]
    arguments = [plan if word == "--chaos=PLAN" else word for word in words]
    if "TINY" in arguments:
        arguments[arguments.index("TINY") : arguments.index("TINY") + 1] = tiny
    assert message in error_line(mtfrun_here("launch", *arguments))
    assert not list(tmp_path.glob("run*"))


def _tried(directory: pathlib.Path, number: int, plan: str, *more: str) -> tuple[int, list[str]]:
    """Returns the exit code of a trial and the lines of its table and verdict."""
    process = mtfrun(
        *("launch", "-n", str(number), _written_plan(directory, plan)),
        "--max_restarts=3",  # on a busy machine TensorFlow misses heartbeats without any fault
        *("--", "train"),
        *tiny_experiment(directory),
        f"--gin.MESH_SHAPE='data:{number},model:1'",
        "--gin.LAYOUT='batch:data'",
        "--gin.NUM_LAYERS=1",
        f"--gin.TRAIN_STEPS={STEPS}",
        f"--gin.CHECKPOINT_EVERY={EVERY}",
        f"--gin.EVAL_EVERY={STEPS // 2}",
        "--gin.Evaluation.max_batches=1",
        *more,
        f"--model_dir={directory}/run",
    )
    return process.returncode, process.stdout.decode().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_run_that_is_killed_and_delayed_is_identical(number: int, tmp_path: pathlib.Path) -> None:
    text = "Chaos.events = [@Kill(), @late/Kill(), @Delay()]\nlate/Kill.at_step = 25"
    code, lines = _tried(tmp_path, number, text)
    assert code == 0, lines
    assert sum("ended by SIGKILL; resumed from step" in line for line in lines) == 2
    assert lines[-1].startswith(f"identical to {tmp_path}/run.undisturbed: {STEPS} steps")


@pytest.mark.slow
def test_a_process_that_stops_is_noticed_by_the_other_one(tmp_path: pathlib.Path) -> None:
    code, lines = _tried(tmp_path, 2, "Chaos.events = [@Stop()]\nStop.at_step = 12")
    assert code == 0, lines
    assert "did not react and was killed; resumed from step" in lines[1]


@pytest.mark.slow
def test_a_changed_bit_and_a_full_disk_leave_a_run_identical(tmp_path: pathlib.Path) -> None:
    text = "Chaos.events = [@FlipBit(), @FullDisk()]\nFlipBit.at_step = 17\nFullDisk.at_step = 26"
    code, lines = _tried(tmp_path, 1, text)
    assert code == 0, lines
    assert re.search(r"bit \d of byte [\d,]+ of ckpt-\d+\.\S+ was changed", lines[1]), lines
    assert "failed with exit code 2; resumed from step" in lines[2]


@pytest.mark.slow
def test_cut_connections_and_a_jump_of_the_clock_leave_a_run_identical(
    tmp_path: pathlib.Path,
) -> None:
    text = "Chaos.events = [@CutConnection(), @ClockJump()]\n"
    text += "CutConnection.at_step = 12\nClockJump.at_step = 22\nClockJump.process = 0"
    # Due at the jump alone.
    by_time = "--gin.CheckpointOptions.every_secs=1800"
    code, lines = _tried(tmp_path, 2, text, by_time)
    assert code == 0, lines
    assert "has lost another process; resumed from step" in lines[1], lines
    assert lines[2].endswith("the clock jumped by 3600 s  went on"), lines


GIN = """
from __gin__ import dynamic_registration
from mtfrun import experiment
from tests.cli.launch import failing

experiment.Training.actions = [@failing.CountCalls()]
"""


@pytest.mark.slow
def test_a_state_that_no_checkpoint_saves_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "counting.gin").write_text(GIN)
    plan = "Chaos.events = [@Kill()]\nKill.at_step = 12"
    code, lines = _tried(tmp_path, 1, plan, f"--gin_file={tmp_path}/counting.gin")
    assert code == 5, lines
    assert any("train/calls of step" in line for line in lines), lines
