"""Two trainers of one directory, and readers while a trainer replaces its checkpoints."""

from __future__ import annotations

import concurrent.futures
import pathlib
import signal
import threading
import time
from collections.abc import Callable

import pytest
import tensorflow as tf

from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.rundir import RunDirectory
from tests.faults.forked import PATIENCE, finished, running
from tests.faults.outcome import leftovers, outcome
from tests.faults.training_run import TrainingRun

READS, READERS = 200, 4
# So many checkpoints at least must have been read, or they were not replaced meanwhile.
CHECKPOINTS = 3
RACES = 10
Record = Callable[[str, object], None]


def _check_race(directory: pathlib.Path) -> None:
    """Raises unless of two trainers that start at once one is refused and one is undisturbed."""
    run = TrainingRun(steps=60)
    model_dir = directory / "run"
    command = run.command(directory, model_dir)
    with running(command, directory / "one") as one, running(command, directory / "two") as two:
        codes = {one.wait(): one, two.wait(): two}
    if set(codes) == {0}:  # the second began when the first had finished
        assert "already finished" in one.stderr + two.stderr
    else:
        assert set(codes) == {0, 2}, one.stderr + two.stderr
        (line,) = codes[2].stderr.splitlines()
        assert f"{model_dir} is in use by " in line
    finished(run.command(directory, directory / "undisturbed"), directory / "alone")
    assert outcome(model_dir).differences(outcome(directory / "undisturbed")) == []
    assert leftovers(model_dir) == []


@pytest.mark.faults
@pytest.mark.parametrize("number", range(RACES))
def test_of_two_trainers_one_is_refused(number: int, tmp_path: pathlib.Path) -> None:
    _check_race(tmp_path)


@pytest.mark.slow
def test_a_second_trainer_is_refused(tmp_path: pathlib.Path) -> None:
    _check_race(tmp_path)


def _check_readers(reads: int, directory: pathlib.Path, record: Record) -> None:
    """Raises unless all reads get a whole checkpoint while each of them is soon replaced.

    Args:
      reads: the least number; there are more if the trainer is slow to replace checkpoints.
      directory: an empty one.
      record: of the test.
    """
    model_dir = directory / "run"
    command = [
        *TrainingRun(steps=1_000_000, visit=1).command(directory, model_dir),
        "--gin.EVAL_EVERY=None",
        "--gin.CHECKPOINT_EVERY=1",
        "--gin.CheckpointOptions.max_to_keep=1",
    ]
    count = threading.Lock()
    steps: list[int] = []
    deadline = time.monotonic() + PATIENCE

    def read() -> None:
        checkpoints = Checkpoints(model_dir / "checkpoints")
        variables: dict[str, tf.Variable] = checkpoints.read(
            None,
            lambda manifest: {
                path: tf.Variable(tf.zeros(spec.shape, spec.dtype))
                for path, spec in manifest.variables.items()
            },
        )
        while True:
            manifest = checkpoints.restore(None, variables)
            assert int(variables["step"]) == manifest.step
            with count:
                if len(steps) >= reads and len(set(steps)) >= CHECKPOINTS:
                    return
                steps.append(manifest.step)
            assert time.monotonic() < deadline, f"only {set(steps)} were read"

    with running(command, directory / "trainer") as trainer:
        assert trainer.wait_for(lambda text: "step 2/" in text)
        with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
            for future in [readers.submit(read) for _ in range(READERS)]:
                future.result()
        assert not trainer.has_ended, trainer.stderr
        trainer.send(signal.SIGTERM)
        assert trainer.wait() == 128 + signal.SIGTERM
    record("reads", len(steps))
    record("checkpoints read", len(set(steps)))
    record("checkpoints written", RunDirectory(model_dir).checkpoints().latest())


@pytest.mark.faults
def test_readers_never_fail_while_checkpoints_are_replaced(
    tmp_path: pathlib.Path, record_property: Record
) -> None:
    _check_readers(READS, tmp_path, record_property)


@pytest.mark.slow
def test_some_readers_do_not_fail_while_checkpoints_are_replaced(
    tmp_path: pathlib.Path, record_property: Record
) -> None:
    _check_readers(20, tmp_path, record_property)
