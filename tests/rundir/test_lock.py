"""Tests of mtfrun.files.lock: one trainer at a time, also after one was killed."""

from __future__ import annotations

import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mtfrun.files import RunDirError, writer_lock
from mtfrun.rundir import RunDirectory

ROOT = pathlib.Path(__file__).parent.parent.parent
HOLDER = """
import sys, time
from mtfrun.rundir import RunDirectory
with RunDirectory(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of tmp_path until it reads a line or is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_error_names_the_holder_until_that_is_killed(
    holder: subprocess.Popen[str], tmp_path: pathlib.Path
) -> None:
    run = RunDirectory(tmp_path)
    for _ in range(2):
        with pytest.raises(RunDirError) as caught, run.lock():
            raise AssertionError("two processes hold the lock")
        message = str(caught.value)
        assert f"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()}" in message
        assert message.endswith("stop that process or name another --model_dir")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with run.lock():
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()


def test_the_lock_is_free_after_the_block_and_after_an_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / ".lock"
    with (
        writer_lock(path),
        pytest.raises(RunDirError, match=f"in use by process {os.getpid()}"),
        writer_lock(path),
    ):
        raise AssertionError("taken twice")
    with pytest.raises(KeyError), writer_lock(path):
        raise KeyError("training failed")
    with writer_lock(path):
        pass
    assert path.read_text() == ""


def test_a_damaged_note_still_gives_a_clear_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / ".lock"
    with writer_lock(path):
        path.write_text("[1]")
        with pytest.raises(RunDirError, match="in use by another process; stop"), writer_lock(path):
            raise AssertionError("taken twice")


def test_a_lock_that_cannot_be_made_is_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    for path, reason in (
        (tmp_path / "missing" / ".lock", "No such file or directory"),
        (tmp_path / ".lock", "No locks available"),
    ):
        with (
            pytest.raises(RunDirError, match=rf"cannot lock {path}: {reason}; name a "),
            writer_lock(path),
        ):
            raise AssertionError("locked nothing")


def test_asking_whether_a_run_is_trained_does_not_refuse_a_trainer(
    holder: subprocess.Popen[str], tmp_path: pathlib.Path
) -> None:
    run = RunDirectory(tmp_path)
    assert run.is_training()
    holder.kill()
    holder.wait()
    assert not run.is_training()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        unlock = threading.Timer(0.07, fcntl.flock, [file, fcntl.LOCK_UN])
        unlock.start()
        with run.lock():
            assert run.is_training()
        unlock.join()


def test_a_run_without_a_lock_file_is_not_trained(tmp_path: pathlib.Path) -> None:
    assert not RunDirectory(tmp_path).is_training()
    assert not (tmp_path / ".lock").exists()
