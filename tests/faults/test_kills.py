"""A run that is killed at any moment ends, once it is started again, as if nothing had happened."""

from __future__ import annotations

import functools
import pathlib
import random
import signal
import time
from collections.abc import Callable

import pytest

from mtfrun.rundir import RunDirectory
from tests.faults.forked import finished, running
from tests.faults.hooks import announce
from tests.faults.outcome import Outcome, leftovers, outcome
from tests.faults.training_run import MESHES, SAVES, TrainingRun, last_step

KILLS = 50
# A fifth of the kills comes before the first step; seconds, of which a start takes one or more.
_STARTS, _START_SECS = 5, 1.0
# Seconds after a step, which takes milliseconds: within steps, points, saves and evaluations.
_STEP_SECS = 0.03


def _check_kill(
    run: TrainingRun,
    number: int,
    undisturbed: Callable[[TrainingRun], Outcome],
    directory: pathlib.Path,
) -> None:
    """Raises unless a killed run ends with the numbers and files of an undisturbed one."""
    rng = random.Random(f"{run} {number}")
    model_dir = directory / "run"
    arguments = run.command(directory, model_dir)
    with running(arguments, directory / "killed") as command:
        if number % _STARTS == 0:
            time.sleep(rng.uniform(0.0, _START_SECS))
        else:
            step = rng.randrange(run.steps)
            command.wait_for(lambda text: last_step(text) >= step)
            time.sleep(rng.uniform(0.0, _STEP_SECS))
        command.send(signal.SIGKILL)
        assert command.wait() in (-signal.SIGKILL, 0)
    saved = RunDirectory(model_dir).checkpoints().latest()
    run.check_resumed(finished(arguments, directory / "resumed").stderr, saved)
    assert outcome(model_dir).differences(undisturbed(run)) == []
    assert leftovers(model_dir) == []


@pytest.mark.faults
@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("saves", SAVES)
@pytest.mark.parametrize("mesh", MESHES)
def test_a_killed_run_ends_with_the_same_bits(
    mesh: str,
    saves: str,
    number: int,
    undisturbed: Callable[[TrainingRun], Outcome],
    tmp_path: pathlib.Path,
) -> None:
    run = TrainingRun(mesh=mesh, saves=saves)
    _check_kill(run, number, undisturbed, tmp_path)


@pytest.mark.slow
def test_a_killed_run_on_a_mesh_ends_with_the_same_bits(
    undisturbed: Callable[[TrainingRun], Outcome], tmp_path: pathlib.Path
) -> None:
    run = TrainingRun(steps=30, mesh="2x2", saves=SAVES[-1])
    _check_kill(run, 1, undisturbed, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("evaluation", [2, 3])
def test_a_run_killed_in_an_evaluation_evaluates_again(
    evaluation: int, undisturbed: Callable[[TrainingRun], Outcome], tmp_path: pathlib.Path
) -> None:
    """In the middle and at the end, after the one before the first step.

    The checkpoint of that step has been saved before.
    """
    run = TrainingRun(steps=60)
    begun = tmp_path / "begun"
    target = "mtfrun.experiment.evaluation.evaluation:Evaluation.__call__"
    at_call = functools.partial(announce, target, evaluation, begun, secs=60.0)
    command = run.command(tmp_path, tmp_path / "run")
    with running(command, tmp_path / "killed", at_call) as process:
        while not begun.exists():
            assert not process.has_ended, process.stderr
            time.sleep(0.01)
        process.send(signal.SIGKILL)
        process.wait()
    finished(command, tmp_path / "resumed")
    assert outcome(tmp_path / "run").differences(undisturbed(run)) == []
