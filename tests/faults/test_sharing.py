"""Two trainers of one directory, and readers while a trainer replaces its checkpoints."""

from __future__ import annotations

import concurrent.futures
import pathlib
import signal
import threading
import time

import pytest
import tensorflow as tf

from mtfrun.checkpoints.checkpoints import Checkpoints
from tests.faults.forked import PATIENCE, finished, running
from tests.faults.outcome import leftovers, outcome
from tests.faults.training_run import TrainingRun

READERS = 4
# So many checkpoints at least must have been read, or they were not replaced meanwhile.
CHECKPOINTS = 3
RACES = 10


@pytest.mark.parametrize(
    "number",
    [pytest.param(i, marks=pytest.mark.faults if i else pytest.mark.slow) for i in range(RACES)],
)
def test_of_two_trainers_one_is_refused(number: int, tmp_path: pathlib.Path) -> None:
    run = TrainingRun(steps=60)
    model_dir = tmp_path / "run"
    command = run.command(tmp_path, model_dir)
    with running(command, tmp_path / "one") as one, running(command, tmp_path / "two") as two:
        codes = {one.wait(): one, two.wait(): two}
    if set(codes) == {0}:  # the second began when the first had finished
        assert "already finished" in one.stderr + two.stderr
    else:
        assert set(codes) == {0, 2}, one.stderr + two.stderr
        (line,) = codes[2].stderr.splitlines()
        assert f"{model_dir} is in use by " in line
    finished(run.command(tmp_path, tmp_path / "undisturbed"), tmp_path / "alone")
    assert outcome(model_dir).differences(outcome(tmp_path / "undisturbed")) == []
    assert leftovers(model_dir) == []


@pytest.mark.parametrize(
    "reads", [pytest.param(20, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.faults)]
)
def test_readers_never_fail_while_checkpoints_are_replaced(
    reads: int, tmp_path: pathlib.Path
) -> None:
    """There are more reads if the trainer is slow to replace checkpoints."""
    model_dir = tmp_path / "run"
    command = [
        *TrainingRun(steps=1_000_000, visit=1).command(tmp_path, model_dir),
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

    with running(command, tmp_path / "trainer") as trainer:
        assert trainer.wait_for(lambda text: "step 2/" in text)
        with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
            for future in [readers.submit(read) for _ in range(READERS)]:
                future.result()
        assert not trainer.has_ended, trainer.stderr
        trainer.send(signal.SIGTERM)
        assert trainer.wait() == 128 + signal.SIGTERM
