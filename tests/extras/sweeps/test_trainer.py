"""Runs of a sweep as processes: signals, failures, output."""

from __future__ import annotations

import io
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.forked_child import Server
from mtfrun.extras.sweeps.result import Results, RunResult, missing_result
from mtfrun.extras.sweeps.resume import PlannedRun, SweepRecords
from mtfrun.extras.sweeps.sweep import Sweep, SweepRun
from mtfrun.extras.sweeps.trainer import LOG, Display, Trainer
from mtfrun.rundir import RunDirectory, RunRecord, Status
from tests.reach import ROOT

# Writes the record of a run as training does, and waits for a signal if its name says so.
PROGRAM = """
import os, pathlib, signal, sys, time
from mtfrun.rundir import RunRecord, Status
directory = pathlib.Path(sys.argv[1])
record = RunRecord(directory)
(directory / "config.gin").write_text("X = 1\\n")
signal.signal(signal.SIGINT, lambda *_: stop())
def stop():
    record.write_status(Status("stopped", 3, 9))
    sys.exit(130)
print("started", flush=True)
record.write_status(Status("running", 3, 9, {"loss": 2.0}))
if "waits" in directory.name:
    time.sleep(300)
if "fails" in directory.name:
    print("mtfrun: error: the loss of step 3 is not finite; use a smaller rate", file=sys.stderr)
    sys.exit(3)
if "is killed" in directory.name:
    os.kill(os.getpid(), signal.SIGKILL)
if "lacks memory" in directory.name:
    error = "ResourceExhaustedError: OOM when allocating"
    record.write_status(Status("failed", 3, 9, error=error))
    sys.exit(1)
if "fills the disk" in directory.name:
    print("mtfrun: error: cannot write a: No space left on device", file=sys.stderr)
    sys.exit(2)
record.write_metrics({9: {"eval/loss": 1.5}})
record.write_status(Status("finished", 9, 9))
"""


def _trained(
    directory: pathlib.Path, *names: str, jobs: int = 2, forks: bool = False
) -> tuple[Trainer, list[PlannedRun], io.StringIO]:
    """Returns a trainer of runs that are the program above, and what it prints."""
    stream = io.StringIO()
    sweep = Sweep(["a.gin"], seeds=[0, 1])
    records = SweepRecords(sweep, directory, Results(directory / "results"), [])
    server = Server(["json"], len, [sys.executable, "-c", PROGRAM])
    display = Display(len(names), stream)
    trainer = Trainer(records, jobs, display, server, lambda run: [str(run.directory)], forks=forks)
    runs = []
    for number, name in enumerate(names, 1):
        run = SweepRun(name, name, 0, [], {})
        runs.append(PlannedRun(number, run, directory / name, missing_result(run)))
    return trainer, runs, stream


def _result(directory: pathlib.Path, name: str) -> RunResult:
    return Results(directory / "results").read()[name]


def test_a_run_that_fails_does_not_end_the_others(tmp_path: pathlib.Path) -> None:
    trainer, runs, stream = _trained(tmp_path, "fails", "a", "b")
    trainer.train(runs)
    assert trainer.codes == {"fails": 3, "a": 0, "b": 0} and trainer.signal is None
    lines = stream.getvalue().splitlines()
    log = runs[0].directory / LOG
    failure = f"failed: the loss of step 3 is not finite (all of its output: {log})"
    assert f"[1/3] fails: {failure}" in lines
    assert "[2/3] a: finished, step 9, loss 1.5000" in lines
    assert (tmp_path / "b" / LOG).read_text() == "started\n"
    failed, finished = _result(tmp_path, "fails"), _result(tmp_path, "a")
    assert failed.state == "failed" and failed.error.startswith("the loss of step 3 is not finite;")
    assert finished.state == "finished" and finished.metrics == {"loss": 1.5}
    assert finished.evaluations == {9: 1.5} and finished.environment["mtfrun"]


def test_runs_that_cannot_be_forked_are_processes_of_their_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(*_: object) -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr("mtfrun.extras.sweeps.trainer.ForkedChild", fork)
    trainer, runs, stream = _trained(tmp_path, "a", "b", forks=True)
    trainer.train(runs)
    assert trainer.codes == {"a": 0, "b": 0}
    assert stream.getvalue().count("since trainings cannot be forked: AF_UNIX path too long") == 1


def test_a_run_waits_for_its_former_process_to_save(tmp_path: pathlib.Path) -> None:
    trainer, runs, stream = _trained(tmp_path, "a")
    runs[0].directory.mkdir()
    with RunDirectory(runs[0].directory).lock():
        thread = threading.Thread(target=trainer._wait_for_lock, args=(runs[0],))
        thread.start()
        while "a: waiting for the end of its former process" not in stream.getvalue():
            time.sleep(0.01)
        assert thread.is_alive()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_killed_run_may_have_lacked_memory(tmp_path: pathlib.Path) -> None:
    trainer, runs, _ = _trained(tmp_path, "is killed", "lacks memory")
    trainer.train(runs)
    killed = _result(tmp_path, "is killed")
    assert killed.state == "killed" and killed.error.startswith("killed by signal 9")
    lacking = _result(tmp_path, "lacks memory")
    assert lacking.state == "failed"
    assert lacking.error == "out of memory: ResourceExhaustedError: OOM when allocating"


def test_no_run_is_started_on_a_full_disk(tmp_path: pathlib.Path) -> None:
    trainer, runs, _ = _trained(tmp_path, "fills the disk", "a", jobs=1)
    with pytest.raises(InputError, match=r"is full, no further run is started: cannot write"):
        trainer.train(runs)
    assert trainer.codes == {"fills the disk": 2}
    assert _result(tmp_path, "fills the disk").state == "failed"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("../victim")])
def test_output_is_not_written_through_a_link_or_a_pipe(
    make: Callable[[pathlib.Path], object], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / LOG)
    trainer, runs, _ = _trained(tmp_path, "run")
    with pytest.raises(InputError, match=rf"cannot write .*{LOG}: .*; remove it"):
        trainer.train(runs)
    assert (tmp_path / "victim").read_text() == "untouched"


@pytest.mark.slow
def test_a_signal_lets_runs_save_and_starts_no_others(tmp_path: pathlib.Path) -> None:
    trainer, runs, stream = _trained(tmp_path, "waits 1", "waits 2", "a")

    def interrupt() -> None:
        while not all((run.directory / "status.json").exists() for run in runs[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    trainer.train(runs)
    thread.join()
    assert trainer.signal == signal.SIGINT
    assert trainer.codes == {"waits 1": 130, "waits 2": 130}
    assert "[2/3] waits 2: stopped by a signal, saved at step 3" in stream.getvalue().splitlines()
    assert not runs[2].directory.exists()


def test_a_bar_is_a_line_for_each_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display(2, stream)
    display.start(1, "RATE=0.1")
    monkeypatch.setattr("mtfrun.display.progress._BAR_DELAY_SECS", 0.0)
    display.advance("RATE=0.1", Status("running", 5, 10, {"loss": 1.25}))
    display.end(1, "RATE=0.1", "finished")
    assert "RATE=0.1  50%|#####     | 5 of 10 steps" in stream.getvalue()
    assert stream.getvalue().endswith("[1/2] RATE=0.1: finished\n")
    assert RunRecord(tmp_path).status() is None


# Prints that it waits, and waits for a signal.
WAITING = """
import signal, sys, time
def main(arguments):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("waits", *arguments, flush=True)
    time.sleep(300)
"""
# A signal to the whole group of processes, as systemd and pkill send it, reaches the server too.
PARENT = """
import multiprocessing.forkserver, os, pathlib, sys, time
import waiting_main
from mtfrun.extras.sweeps.forked_child import ForkedChild, Server
server = Server(["waiting_main"], waiting_main.main, [sys.executable, "-m", "mtfrun"])
child = ForkedChild(server, ["for it"], ["mtfrun"], pathlib.Path(sys.argv[1]))
print(child.pid, flush=True)
if sys.argv[2] == "waits":
    time.sleep(300)
while "waits" not in pathlib.Path(sys.argv[1]).read_text():
    time.sleep(0.01)
os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, 15)
child.send_signal(15)
while (code := child.poll()) is None:
    time.sleep(0.01)
print(code)
"""


def _start(directory: pathlib.Path, word: str) -> subprocess.Popen[str]:
    (directory / "waiting_main.py").write_text(WAITING)
    (directory / "log").touch()
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory / "log"), word],
        env={**os.environ, "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_child_prints_into_its_file_and_returns_an_exit_code_after_a_signal_to_all(
    tmp_path: pathlib.Path,
) -> None:
    with _start(tmp_path, "signals") as parent:
        output, _ = parent.communicate(timeout=60)
    assert output.split()[1:] == ["143"]
    assert (tmp_path / "log").read_text() == "waits for it\n"


@pytest.mark.slow
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: pathlib.Path) -> None:
    with _start(tmp_path, "waits") as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while "waits" not in (tmp_path / "log").read_text():
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 60
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.01)
