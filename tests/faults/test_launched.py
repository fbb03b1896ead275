"""Processes of `mtfrun launch` that faults hit from outside, and a clock that jumps."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import pathlib
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from mtfrun.extras.audit.ledger import newest_recorded_step, read_ledger
from tests.faults.forked import PATIENCE, finished, running
from tests.faults.hooks import jumping_clock
from tests.faults.outcome import Outcome, leftovers, outcome
from tests.faults.training_run import TrainingRun

# The number of the system call on all processors: man 2 pidfd_getfd.
_PIDFD_GETFD = 438


def _delay(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(pid, signal.SIGCONT)


def _cut_connections(pid: int) -> None:
    """Shuts down all TCP connections of a process, as if the network had gone."""
    connections = list(_connections(pid))
    for connection in connections:
        with connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    assert connections


def _connections(pid: int) -> Iterator[socket.socket]:
    process = os.pidfd_open(pid)
    for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if str(path.readlink()).startswith("socket:"):
                copy = ctypes.CDLL(None).syscall(_PIDFD_GETFD, process, int(path.name), 0)
                one = socket.socket(fileno=copy)
                is_tcp = one.family in (socket.AF_INET, socket.AF_INET6)
                if is_tcp and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield one
                else:
                    one.close()
    os.close(process)


def _wait_for_step(run: pathlib.Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while newest_recorded_step(run) < step:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _pid(run: pathlib.Path, process: int) -> int:
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text().split("\0")
            if {f"--process_id={process}", f"--model_dir={run}"} <= set(words):
                return int(path.parent.name)
    raise AssertionError(f"no process {process}")


@pytest.mark.faults
def test_processes_that_are_killed_delayed_and_cut_off_end_with_the_same_bits(
    tmp_path: pathlib.Path,
) -> None:
    training = TrainingRun(steps=60, mesh="2x2")
    launch = ["launch", "-n", "2", "--trusted_network", "--max_restarts=4", "--"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    finished([*launch, *training.command(tmp_path, undisturbed)], tmp_path / "first")
    with running([*launch, *training.command(tmp_path, run)], tmp_path / "second") as command:
        for step, process, strike in (
            (12, 1, lambda pid: os.kill(pid, signal.SIGKILL)),
            (24, 0, _delay),
            (36, 0, _cut_connections),
        ):
            _wait_for_step(run, step)
            strike(_pid(run, process))
        assert command.wait() == 0, command.stderr
    assert "process 1 of 2 was ended by SIGKILL; starting all again" in command.stderr
    assert "(restart 2 of 4)" in command.stderr
    assert outcome(run).differences(outcome(undisturbed)) == []
    assert list(read_ledger(run)) == list(read_ledger(undisturbed))
    assert leftovers(run) == []


@pytest.mark.faults
def test_a_jump_of_the_clock_saves_at_once_and_changes_no_bit(
    tmp_path: pathlib.Path, undisturbed: Callable[[TrainingRun], Outcome]
) -> None:
    training, run, jump = TrainingRun(steps=60), tmp_path / "run", tmp_path / "jump"
    flags = ["--gin.CheckpointOptions.every_secs=1800", "--gin.CheckpointOptions.max_to_keep=None"]
    arguments = [*training.command(tmp_path, run), *flags]
    clock = functools.partial(jumping_clock, jump)
    with running(arguments, tmp_path / "output", clock) as command:
        _wait_for_step(run, 15)
        jump.touch()
        assert command.wait() == 0, command.stderr
    steps = [int(path.stem[5:]) for path in (run / "checkpoints").glob("ckpt-*.json")]
    assert sum(step % 10 != 0 for step in steps) == 1
    ended, expected = (
        dataclasses.replace(x, checkpoints=()) for x in (outcome(run), undisturbed(training))
    )
    assert ended.differences(expected) == []
