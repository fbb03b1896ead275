"""Runs of a sweep as processes: signals, failures, output."""

from __future__ import annotations

import io
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from mtfrun.errors import InputError
from mtfrun.rundir import RunRecord, Status
from mtfrun.tools.runs import summary_of
from mtfrun.tools.sweep.trainer import LOG, Display, TrainedRun, Trainer

# Writes the record of a run as training does, and waits for a signal if its name says so.
PROGRAM = """
import pathlib, signal, sys, time
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
record.write_metrics({9: {"eval/loss": 1.5}})
record.write_status(Status("finished", 9, 9))
"""


def _trained(directory: pathlib.Path, *names: str) -> tuple[Trainer, list[TrainedRun], io.StringIO]:
    """Returns a trainer of runs that are the program above, and what it prints."""
    stream = io.StringIO()
    program = [sys.executable, "-c", PROGRAM]
    trainer = Trainer(2, Display(len(names), stream), "loss", program)
    runs = [
        TrainedRun(number, name, directory / name, [str(directory / name)])
        for number, name in enumerate(names, 1)
    ]
    return trainer, runs, stream


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
    assert summary_of(tmp_path / "fails", "fails").state == "killed"  # it has not said how it ended


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
    assert "[2/3] waits 2: stopped and saved at step 3" in stream.getvalue().splitlines()
    assert not runs[2].directory.exists()


def test_a_bar_is_a_line_for_each_run(tmp_path: pathlib.Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display(2, stream)
    display.start(1, "RATE=0.1")
    display.advance("RATE=0.1", Status("running", 5, 10, {"loss": 1.25}))
    display.end(1, "RATE=0.1", "finished")
    assert " 50% |" in stream.getvalue() and "RATE=0.1: step 5/10, loss 1.2500" in stream.getvalue()
    assert stream.getvalue().endswith("[1/2] RATE=0.1: finished\n")
    assert RunRecord(tmp_path).status() is None
