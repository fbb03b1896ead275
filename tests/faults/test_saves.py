"""A run that is killed within a save, or while old checkpoints are deleted, loses neither."""

from __future__ import annotations

import functools
import pathlib
import random
import signal
from collections.abc import Callable

import pytest

from mtfrun.rundir import RunDirectory
from tests.faults.forked import finished, running
from tests.faults.hooks import count_operations, kill_at_operation
from tests.faults.outcome import Outcome, leftovers, outcome
from tests.faults.training_run import MESHES, SAVES, TrainingRun

KILLS = 50
# Every second kill comes so many seconds after an operation, at most.
_DELAY_SECS = 0.02

Undisturbed = tuple[Outcome, int]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainingRun], Undisturbed]:
    """A function that returns the outcome of a run and the number of operations of its saves."""

    @functools.cache
    def train(run: TrainingRun) -> Undisturbed:
        directory = tmp_path_factory.mktemp("undisturbed")
        model_dir, count = directory / "run", directory / "count"
        prepare = functools.partial(count_operations, model_dir / "checkpoints", count)
        finished(run.command(directory, model_dir), directory / "output", prepare)
        return outcome(model_dir), int(count.read_text())

    return train


def _check_kill(
    run: TrainingRun, number: int, undisturbed: Undisturbed, directory: pathlib.Path
) -> None:
    """Raises unless a run killed within a save goes on from the newest checkpoint to the same end.

    Nothing may be left over of that save.
    """
    directory.mkdir(exist_ok=True)
    expected, operations = undisturbed
    rng = random.Random(f"{run} {number}")
    model_dir = directory / "run"
    arguments = run.command(directory, model_dir)
    at = rng.randrange(1, operations + 1)
    secs = rng.uniform(0.0, _DELAY_SECS) if number % 2 else 0.0
    kill = functools.partial(kill_at_operation, model_dir / "checkpoints", at, secs)
    with running(arguments, directory / "killed", kill) as command:
        code = command.wait()
    assert code == -signal.SIGKILL or (secs and code == 0), command.stderr
    saved = RunDirectory(model_dir).checkpoints().latest()
    assert saved == run.steps or f"eval step {run.steps}" not in command.stderr
    if (model_dir / "checkpoints").exists():
        leftovers(model_dir)  # verifies the checkpoints
    resumed = finished(arguments, directory / "resumed").stderr
    run.check_resumed(resumed, saved)
    assert outcome(model_dir).differences(expected) == []
    assert leftovers(model_dir) == []


@pytest.mark.faults
@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("saves", SAVES)
@pytest.mark.parametrize("mesh", MESHES)
def test_a_run_killed_within_a_save_ends_with_the_same_bits(
    mesh: str,
    saves: str,
    number: int,
    undisturbed: Callable[[TrainingRun], Undisturbed],
    tmp_path: pathlib.Path,
) -> None:
    # On a mesh a save takes as long as forty steps.
    run = TrainingRun(steps=200 if mesh == "one device" else 60, mesh=mesh, saves=saves)
    _check_kill(run, number, undisturbed(run), tmp_path)


def test_one_run_killed_within_a_save_ends_with_the_same_bits(
    undisturbed: Callable[[TrainingRun], Undisturbed], tmp_path: pathlib.Path
) -> None:
    run = TrainingRun(steps=30, saves="asynchronous")
    _check_kill(run, 0, undisturbed(run), tmp_path / "run")
