"""Runs at a URL that are killed: on the S3 server nothing is lost, and nothing is half there."""

from __future__ import annotations

import functools
import os
import pathlib
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from mtfrun.files import Store
from mtfrun.rundir import RunDirectory
from tests.faults.forked import Preparation, finished, running
from tests.faults.hooks import set_constant, set_environment, slow_calls
from tests.faults.outcome import Outcome, leftovers, outcome
from tests.faults.training_run import SAVES, TrainingRun, last_step
from tests.files.s3_server import BUCKET, S3Server, s3_server

KILLS = 10
# Seconds of every upload: most kills come while some file is not uploaded yet.
_UPLOAD_SECS = 0.02
_STEP_SECS = 0.1
_RESUMED = re.compile(r"resuming from step (\d+) of ")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment.items():
            patch.setenv(name, value)  # before this process imports the libraries of S3
        yield started


def _machine(server: S3Server, directory: pathlib.Path) -> list[Preparation]:
    """What a command runs with on one machine, which has its own caches."""
    store, mirror = "mtfrun.files.store:Store", "mtfrun.checkpoints.mirror"
    methods = [f"{store}.{name}" for name in ("upload", "write", "delete")]
    environment = {**server.environment, "MTFRUN_CACHE_DIR": str(directory)}
    return [
        functools.partial(set_environment, environment),
        functools.partial(set_constant, f"{mirror}.lease:EXPIRY_SECS", 0.5),
        functools.partial(set_constant, f"{mirror}.upload_thread:EVERY_SECS", 1.0),
        functools.partial(slow_calls, _UPLOAD_SECS, *methods),
    ]


def _download(url: str, directory: pathlib.Path) -> pathlib.Path:
    """Returns a directory with all files of the store, as any other program copies them."""
    store, run = Store(url), directory / "copy" / "run"
    shutil.rmtree(run, ignore_errors=True)
    names = store.files()
    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
    store.download({name: run / name for name in names})
    run.mkdir(parents=True, exist_ok=True)
    return run


def _whole_steps(run: pathlib.Path) -> list[int]:
    checkpoints = RunDirectory(run).checkpoints()
    for step in checkpoints.steps():
        checkpoints.verify(step)
    return checkpoints.steps()


def _check_kill(
    run: TrainingRun,
    number: int,
    server: S3Server,
    directory: pathlib.Path,
    undisturbed: Callable[[TrainingRun], Outcome],
) -> None:
    """Kills a training, looks at the store, and resumes on the same or on another machine."""
    rng = random.Random(f"store {run} {number}")
    url = f"s3://{BUCKET}/{directory.name}/run"
    arguments = run.command(directory, url)
    with running(arguments, directory / "killed", *_machine(server, directory / "1")) as command:
        step = rng.randrange(run.steps)
        command.wait_for(lambda text: last_step(text) >= step)
        time.sleep(rng.uniform(0.0, _STEP_SECS))
        command.send(signal.SIGKILL)
        command.wait()
    stored = _whole_steps(_download(url, directory))
    local = [0]
    is_same_machine = number % 2 == 0
    if is_same_machine:
        (folder,) = (directory / "1/stores/runs").glob("*/run")
        local = RunDirectory(folder).checkpoints().steps()
    machine = _machine(server, directory / ("1" if is_same_machine else "2"))
    resumed = _RESUMED.search(finished(arguments, directory / "resumed", *machine).stderr)
    newest = max([*stored, *local], default=0)
    assert int(resumed[1] if resumed else 0) in ({newest, 0} if newest == run.steps else {newest})
    copy = _download(url, directory)
    assert outcome(copy).differences(undisturbed(run)) == []
    assert leftovers(copy) == []
    assert Store(url).read(".lease.json") is None


@pytest.mark.faults
@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("saves", SAVES)
def test_a_killed_run_at_a_url_ends_with_the_same_bits(
    saves: str,
    number: int,
    server: S3Server,
    undisturbed: Callable[[TrainingRun], Outcome],
    tmp_path: pathlib.Path,
) -> None:
    _check_kill(TrainingRun(saves=saves), number, server, tmp_path, undisturbed)


@pytest.mark.slow  # kills at every upload are in the default suite: tests/rundir/test_mirror.py
def test_one_killed_run_at_a_url_ends_with_the_same_bits(
    server: S3Server, undisturbed: Callable[[TrainingRun], Outcome], tmp_path: pathlib.Path
) -> None:
    run = TrainingRun(steps=30, saves=SAVES[-1])
    _check_kill(run, 1, server, tmp_path, undisturbed)


@pytest.mark.slow
def test_a_store_that_does_not_answer_stops_no_steps(
    server: S3Server, undisturbed: Callable[[TrainingRun], Outcome], tmp_path: pathlib.Path
) -> None:
    run = TrainingRun(steps=40, saves=SAVES[-1])
    url = f"s3://{BUCKET}/{tmp_path.name}/run"
    machine = _machine(server, tmp_path / "1")
    with running(run.command(tmp_path, url), tmp_path / "output", *machine) as command:
        command.wait_for(lambda text: last_step(text) >= 10)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert command.wait_for(lambda text: last_step(text) == run.steps)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert command.wait() == 0, command.stderr
    assert outcome(_download(url, tmp_path)).differences(undisturbed(run)) == []
