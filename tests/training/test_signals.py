"""Signals, and other ends of a training."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest

from mtfrun.display.progress import Work
from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory
from mtfrun.training import (
    Action,
    CheckpointOptions,
    EarlyStopping,
    MaxHours,
    TrainOptions,
    TrainResult,
    signals,
)
from mtfrun.training.signals import Stopped, StopSignals
from tests.training.test_keeping import AddingMetrics
from tests.training.toy_run import quick_train

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("hangup_not_ignored")

# A program that is in native code for ten minutes, where Python calls no handler. It runs the file
# alone, to save the seconds that importing TensorFlow takes.
BUSY = """
import hashlib, runpy, sys
signals = runpy.run_path(sys.argv[1])
with signals["StopSignals"]().handling() as stop:
    print("busy", flush=True)
    for _ in range(int(sys.argv[2])):
        hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[3]))
        if stop.agree():
            sys.exit(100 + stop.received)
"""


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def _busy(
    processes: list[subprocess.Popen[str]], rounds: int, length: int, *, prefix: str = ""
) -> subprocess.Popen[str]:
    """Starts the program above and waits until it handles signals."""
    return _started(processes, prefix + BUSY, signals.__file__, str(rounds), str(length))


def _started(processes: list[subprocess.Popen[str]], *program: str) -> subprocess.Popen[str]:
    """Starts a Python program with its arguments and waits until it has printed "busy"."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", *program], stdout=pipe, stderr=pipe, text=True, cwd=ROOT
    )
    processes.append(process)
    assert process.stdout is not None and process.stdout.readline() == "busy\n"
    return process


SLOW_HANGUP = pytest.param(signal.SIGHUP, marks=pytest.mark.slow)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, SLOW_HANGUP])
@pytest.mark.parametrize(
    "second", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_the_second_signal_ends_native_code_within_a_second(
    first: int, second: int, processes: list[subprocess.Popen[str]]
) -> None:
    process = _busy(processes, 1, 2_000_000_000)
    process.send_signal(first)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(second)
    assert process.wait(timeout=1.0) == 128 + second


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, SLOW_HANGUP])
def test_a_signal_is_acknowledged_while_native_code_runs(
    number: int, processes: list[subprocess.Popen[str]]
) -> None:
    process = _busy(processes, 1, 2_000_000_000)
    process.send_signal(number)
    assert process.stderr is not None
    assert process.stderr.readline() == "mtfrun: saving; again to stop now\n"
    assert process.poll() is None


def test_the_acknowledgement_says_what_is_interrupted() -> None:
    with StopSignals().handling() as stop:
        stop.finishing = "step 120"
        assert stop._acknowledgement() == "finishing step 120, saving"
        with Work("evaluating step 100"):
            assert stop._acknowledgement() == "interrupted while evaluating step 100, saving"


WRITING = """
import hashlib, runpy, sys
from mtfrun.files import atomic_open, remove_outputs_in_progress
signals = runpy.run_path(sys.argv[1])
with (
    signals["handle_signals"](
        lambda number, frame: None,
        acknowledgement=lambda: "stopping",
        before_exit=remove_outputs_in_progress,
    ),
    atomic_open(sys.argv[2]) as file,
):
    file.write("half")
    file.flush()
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
"""


def test_the_second_signal_removes_an_output_in_progress(
    processes: list[subprocess.Popen[str]], tmp_path: pathlib.Path
) -> None:
    process = _started(processes, WRITING, signals.__file__, str(tmp_path / "answers.jsonl"))
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5.0) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_one_signal_lets_the_work_be_finished(processes: list[subprocess.Popen[str]]) -> None:
    process = _busy(processes, 1000, 100_000)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 100 + signal.SIGHUP


def test_a_closed_terminal_may_send_two_signals(processes: list[subprocess.Popen[str]]) -> None:
    process = _busy(processes, 1, 1_000_000)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    assert process.wait(timeout=20) == 100 + signal.SIGHUP


def test_with_nohup_a_process_goes_on(processes: list[subprocess.Popen[str]]) -> None:
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = _busy(processes, 1, 1_000_000, prefix=ignoring)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 0


def test_the_former_handlers_are_restored() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    former = [signal.getsignal(number) for number in numbers]
    with StopSignals().handling() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.agree() == signal.SIGHUP
        with pytest.raises(Stopped):
            stop.check()
    assert [signal.getsignal(number) for number in numbers] == former
    assert signal.set_wakeup_fd(-1) == -1


def test_what_native_code_makes_of_stopped_is_stopped() -> None:
    with StopSignals().handling() as stop, pytest.raises(Stopped), stop.abandoning():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Stopped:
            raise SystemError("while_loop returned a result with an exception set") from None


def test_a_signal_of_another_process_stops_this_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    of_others: list[int | None] = [None, None]
    monkeypatch.setattr("mtfrun.processes.gather", lambda own, _: [own, *of_others])
    with StopSignals().handling() as stop:
        stop.check()
        of_others[1] = signal.SIGTERM
        assert stop.received is None  # not before all agree on it
        with pytest.raises(Stopped):
            stop.check()
        assert stop.received == signal.SIGTERM


def test_another_thread_handles_no_signals() -> None:
    """Python allows handlers in the main thread only."""
    former = signal.getsignal(signal.SIGTERM)

    def inside() -> None:
        with StopSignals().handling() as stop:
            assert signal.getsignal(signal.SIGTERM) is former
            assert stop.agree() is None

    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(inside).result()


VALUES = {2: 3.0, 4: 2.0, 6: 2.0, 8: 1.99, 10: 2.5, 12: 2.5, 14: 2.5}


def _train(
    model_dir: pathlib.Path,
    train_steps: int,
    actions: Sequence[Action],
    values: Mapping[int, float] = VALUES,
) -> TrainResult:
    options = TrainOptions(
        train_steps, iterations_per_loop=1, checkpoints=CheckpointOptions(every_steps=3)
    )
    _, result = quick_train(str(model_dir), options, actions=[AddingMetrics(values), *actions])
    return result


@pytest.mark.parametrize(
    ("stopping", "last"),
    [
        pytest.param(EarlyStopping(patience=1), 6, marks=pytest.mark.slow),
        pytest.param(EarlyStopping(patience=2), 12, marks=pytest.mark.slow),
        (EarlyStopping(patience=2, min_delta=0.1), 8),
        pytest.param(EarlyStopping(patience=2, mode="highest"), 6, marks=pytest.mark.slow),
        pytest.param(EarlyStopping(patience=9), 20, marks=pytest.mark.slow),
    ],
)
def test_training_ends_after_so_many_values_that_are_not_better(
    tmp_path: pathlib.Path, stopping: EarlyStopping, last: int, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _train(tmp_path, 20, [stopping])
    assert (result.step, result.signal) == (last, None)
    assert RunDirectory(tmp_path).checkpoints().latest() == last
    ended = f"ending at step {last}: eval/loss was best at step"
    assert (ended in capsys.readouterr().err) == (last < 20)


@pytest.mark.slow
def test_values_of_earlier_processes_count_and_a_run_that_has_ended_stays_so(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(tmp_path, 11, [EarlyStopping(patience=2)])
    # From step 11: of steps 8 and 10 it knows by the file.
    assert _train(tmp_path, 20, [EarlyStopping(patience=2)]).step == 12
    capsys.readouterr()
    assert _train(tmp_path, 20, [EarlyStopping(patience=2)]).step == 12
    assert "already ended at step 12: eval/loss was best at step 8" in capsys.readouterr().err
    assert _train(tmp_path, 20, [EarlyStopping(patience=3)]).step == 14


def test_values_that_are_never_finite_end_training(tmp_path: pathlib.Path) -> None:
    values = {2: float("nan"), 4: float("inf"), 6: 1.0}
    assert _train(tmp_path, 20, [EarlyStopping(patience=2)], values).step == 4


def test_an_unknown_metric_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        InputError, match=r"EarlyStopping\.metric='eval/bleu' is not one of the metrics"
    ):
        _train(tmp_path, 20, [EarlyStopping(metric="eval/bleu")])


def test_after_so_many_hours_training_saves_and_ends(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = iter(range(10_000))
    options = TrainOptions(1000, checkpoints=CheckpointOptions(every_steps=None))
    _, result = quick_train(
        str(tmp_path), options, actions=[MaxHours(20 / 3600)], clock=lambda: float(next(ticks))
    )
    assert 0 < result.step < 1000 and result.signal is None
    assert RunDirectory(tmp_path).checkpoints().steps() == [result.step]
    line = f"ending at step {result.step}: 0.00555556 hours are over; the same command resumes"
    assert line in capsys.readouterr().err
