"""What happens to a training of several processes if one of them fails, as the command shows it."""

from __future__ import annotations

import pathlib
import re
import signal
import socket
import time
from collections.abc import Sequence

import numpy as np
import pytest

from mtfrun.errors import ExitCode
from mtfrun.rundir import RunDirectory
from tests.cli.command import mtfrun, mtfrun_here, succeeded, tiny_experiment
from tests.training.toy_run import curve

# From the failure of a process to the end of all.
END_SECS = 30.0
# Between losses of different numbers of processes, relative.
LOSS_TOLERANCE = 1e-6

STEPS, EVERY, FAILING_STEP = 12, 3, 7
SAVED_STEP = 6  # before it

GIN = """
from __gin__ import dynamic_registration
from mtfrun import experiment
from tests.cli.launch import failing

experiment.Training.actions = [@failing.FailOnce()]
failing.FailOnce:
    process = {process}
    step = {step}
    how = "{how}"
    file = "{file}"
"""


_PLACE = r"\(pid \d+ on \S+\)"
# By how a process fails, see FailOnce: the exit code without restarts, and the end of the line that
# all other processes print alike.
ENDS = {
    "SIGKILL": (128 + signal.SIGKILL, "has ended without a message"),
    "SIGSTOP": (128 + signal.SIGKILL, "has sent no heartbeat"),
    "raise": (1, "failed: RuntimeError: for a test"),
}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny training on two devices, without the directory of a run."""
    return [
        *tiny_experiment(tmp_path_factory.mktemp("texts")),
        "--gin.MESH_SHAPE='data:2,model:1'",
        "--gin.LAYOUT='batch:data'",
        f"--gin.TRAIN_STEPS={STEPS}",
        f"--gin.CHECKPOINT_EVERY={EVERY}",
        "--gin.training.CheckpointOptions.asynchronous=False",  # step 6 is saved before step 7
        "--gin.Evaluation.max_batches=1",
    ]


@pytest.fixture(scope="module")
def undisturbed(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses by step of one process on the same mesh, which never fails."""
    run = tmp_path_factory.mktemp("undisturbed")
    succeeded(mtfrun_here("train", *flags, f"--model_dir={run}"))
    return curve(str(run))


def _failing(directory: pathlib.Path, process: int, how: str) -> str:
    """Writes a gin file that lets a process fail and returns the flag that reads it."""
    file = directory / "failing.gin"
    marker = directory / "has_failed"
    file.write_text(GIN.format(process=process, step=FAILING_STEP, how=how, file=marker))
    return f"--gin_file={file}"


def _assert_same_losses(run: pathlib.Path, expected: dict[int, float]) -> None:
    losses = curve(str(run))
    assert losses.keys() == expected.keys()
    for step, loss in expected.items():
        np.testing.assert_allclose(losses[step], loss, rtol=LOSS_TOLERANCE)


def _launched(tmp_path: pathlib.Path, flags: Sequence[str], *launch: str) -> tuple[int, list[str]]:
    """Returns exit code and lines of a launch that ends within END_SECS after the failure."""
    process = mtfrun("launch", *launch, "--", "train", *flags, f"--model_dir={tmp_path}/run")
    end = time.time()
    if "--max_restarts=1" not in launch:
        assert end - (tmp_path / "has_failed").stat().st_mtime < END_SECS
    return process.returncode, process.stderr.decode().splitlines()


# The tests of restarts have the other process; the first one is that of all the connections.
@pytest.mark.slow
@pytest.mark.parametrize(("how", "process"), [("SIGKILL", 0), ("SIGSTOP", 1), ("raise", 1)])
def test_the_others_end_with_one_line(
    how: str, process: int, flags: list[str], tmp_path: pathlib.Path
) -> None:
    code, lines = _launched(tmp_path, [*flags, _failing(tmp_path, process, how)], "-n", "2")
    expected_code, text = ENDS[how]
    assert code == expected_code, lines
    (line,) = [line for line in lines if line.startswith("mtfrun: error:")]
    assert re.match(f"mtfrun: error: process {process} of 2 {_PLACE} {text}", line), line
    assert f"step {SAVED_STEP} is saved" in line
    assert RunDirectory(tmp_path / "run").checkpoints().latest() == SAVED_STEP


@pytest.mark.slow
def test_a_process_that_stops_while_another_one_waits_in_a_collective_is_named(
    flags: list[str], tmp_path: pathlib.Path
) -> None:
    failing = _failing(tmp_path, 0, "SIGSTOP between actions")
    endless = ["--gin.TRAIN_STEPS=1000000", "--gin.CHECKPOINT_EVERY=1000000"]
    endless += ["--gin.LOG_EVERY=1000000", "--gin.ITERATIONS_PER_LOOP=100"]
    code, lines = _launched(tmp_path, [*flags, *endless, failing], "-n", "2")
    assert code == 128 + signal.SIGKILL, lines
    (line,) = [line for line in lines if line.startswith("mtfrun: error:")]
    expected = rf"process 0 of 2 {_PLACE} has sent no heartbeat"
    assert re.match("mtfrun: error: " + expected, line), line


@pytest.mark.slow
def test_a_process_that_stops_while_tensorflow_connects_is_named(
    flags: list[str], tmp_path: pathlib.Path
) -> None:
    module = "--module_import=tests.cli.launch.stops_connecting"
    command = ["train", *flags, module, f"--model_dir={tmp_path}/run"]
    process = mtfrun("launch", "-n", "2", "--", *command)
    assert process.returncode == 128 + signal.SIGKILL
    lines = process.stderr.decode().splitlines()
    (line,) = [line for line in lines if line.startswith("mtfrun: error:")]
    assert re.match(f"mtfrun: error: process 1 of 2 {_PLACE} has sent no heartbeat", line), line


@pytest.mark.slow
def test_a_restart_finishes_with_the_losses_of_an_undisturbed_run(
    flags: list[str], undisturbed: dict[int, float], tmp_path: pathlib.Path
) -> None:
    failing = _failing(tmp_path, 0, "SIGSTOP")
    code, lines = _launched(tmp_path, [*flags, failing], "-n", "2", "--max_restarts=1")
    assert code == 0, lines
    (line,) = [line for line in lines if line.startswith("mtfrun: process")]
    assert line.startswith("mtfrun: process 0 of 2 ")
    assert line.endswith(f"starting all again, from step {SAVED_STEP} (restart 1 of 1)")
    assert sum(f"  resuming from step {SAVED_STEP} of " in line for line in lines) == 1
    _assert_same_losses(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_restart_goes_on_from_the_newest_checkpoint_that_is_complete(
    flags: list[str], undisturbed: dict[int, float], tmp_path: pathlib.Path
) -> None:
    failing = _failing(tmp_path, 1, "SIGKILL")
    flags = [*flags, failing, "--gin.training.CheckpointOptions.asynchronous=True"]
    code, lines = _launched(tmp_path, flags, "-n", "2", "--max_restarts=1")
    assert code == 0, lines
    (line,) = [line for line in lines if line.startswith("mtfrun: process")]
    match = re.search(r"from step (\d+) \(restart 1 of 1\)$", line)
    assert match is not None and int(match[1]) in (SAVED_STEP - EVERY, SAVED_STEP), line
    _assert_same_losses(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_lost_process_is_left_out(
    flags: list[str], undisturbed: dict[int, float], tmp_path: pathlib.Path
) -> None:
    failing = _failing(tmp_path, 1, "SIGKILL")
    elastic = ["-n", "2", "--max_restarts=1", "--elastic"]
    code, lines = _launched(tmp_path, [*flags, failing], *elastic)
    assert code == 0, lines
    (line,) = [line for line in lines if line.startswith("mtfrun: process")]
    assert "going on with 1 process(es), mesh data:1,model:1" in line
    _assert_same_losses(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_all_stop_at_the_same_step_after_a_signal(
    flags: list[str], undisturbed: dict[int, float], tmp_path: pathlib.Path
) -> None:
    failing = _failing(tmp_path, 1, "SIGTERM")
    code, lines = _launched(tmp_path, [*flags, failing], "-n", "2", "--max_restarts=0")
    assert code == 128 + signal.SIGTERM, lines
    match = re.fullmatch(
        r"mtfrun: stopped and saved at step (\d+); the same command resumes", lines[-1]
    )
    assert match is not None, "\n".join(lines)
    assert RunDirectory(tmp_path / "run").checkpoints().latest() == int(match[1])
    code, lines = _launched(tmp_path, [*flags, failing], "-n", "2", "--max_restarts=1")
    assert code == 0, lines
    _assert_same_losses(tmp_path / "run", undisturbed)


def test_a_process_that_never_comes_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = mtfrun(
        *("train", "--num_processes=3", "--process_id=0", f"--coordinator={address}"),
        *("--trusted_network", "--join_secs=0.5"),
        *("--gin_file=runs/quickstart.gin", "--model_dir=/nowhere/run"),
    )
    assert process.returncode == ExitCode.LOST_PROCESS
    (line,) = process.stderr.decode().splitlines()
    assert line.startswith("mtfrun: error: processes 1, 2 of 3 have not come within 0.5 s: ")
