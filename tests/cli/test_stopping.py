"""A signal ends evaluation, decoding and scoring after the current batch."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from mtfrun.cli.main import terminable
from mtfrun.data import Infeed
from mtfrun.experiment.inference.decoding_batches import DecodingBatches
from mtfrun.rundir import RunDirectory
from mtfrun.training import step
from tests.cli.command import ROOT, environment, mtfrun_here, tiny_experiment

SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
SIGNAL_CASES = [SIGNALS[0], *(pytest.param(*s, marks=pytest.mark.slow) for s in SIGNALS[1:])]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_experiment(tmp_path_factory.mktemp("texts"))


def _signalling(
    function: Callable[..., Any], number: int, at_call: int, calls: list[int]
) -> Callable[..., Any]:
    """Returns the function, at one of whose calls the process gets a signal."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == at_call:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    return wrapped


def _without_progress(process: subprocess.CompletedProcess[bytes]) -> list[bytes]:
    """Returns the lines on standard error but for those of work that took long enough for some."""
    lines = process.stderr.splitlines()
    return [x for x in lines if not x.startswith((b"decoding: ", b"scoring: ", b"evaluating "))]


@pytest.mark.usefixtures("hangup_not_ignored")
@pytest.mark.parametrize(("number", "code"), SIGNAL_CASES)
def test_an_evaluation_ends_between_batches(
    number: int,
    code: int,
    language_model_run: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(Infeed, "next", _signalling(Infeed.next, number, 2, calls))
    process = mtfrun_here("eval", f"--model_dir={language_model_run}")
    assert (process.returncode, process.stdout, _without_progress(process)) == (code, b"", [])
    assert len(calls) == 2
    acknowledged = capfd.readouterr().err
    assert "mtfrun: interrupted while evaluating step 2, stopping; again to stop now\n" in (
        acknowledged
    )


@pytest.mark.usefixtures("hangup_not_ignored")
@pytest.mark.slow
def test_decoding_ends_between_batches_and_leaves_no_file(
    language_model_run: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    calls: list[int] = []
    search = _signalling(DecodingBatches._decode_batch, signal.SIGTERM, 2, calls)
    monkeypatch.setattr(DecodingBatches, "_decode_batch", search)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    prompts, output = tmp_path / "prompts", tmp_path / "out" / "answers.jsonl"
    prompts.write_text("the\n" * 40)
    output.parent.mkdir()
    decode = [
        "decode",
        f"--model_dir={language_model_run}",
        f"--input={prompts}",
        f"--output={output}",
    ]
    process = mtfrun_here(*decode)
    assert (process.returncode, _without_progress(process)) == (143, [])
    assert "mtfrun: interrupted while decoding, stopping; again" in capfd.readouterr().err
    assert len(calls) == 2 and list(output.parent.iterdir()) == []


@pytest.mark.slow
def test_an_evaluation_of_training_ends_between_batches_and_all_is_saved(
    flags: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    # The first two are steps of training, and then the evaluation of the second begins.
    monkeypatch.setattr(Infeed, "next", _signalling(Infeed.next, signal.SIGTERM, 4, calls))
    evaluating = ["--gin.EVAL_EVERY=2", "--gin.EVAL_AT_START=False"]
    train = [*flags, "--gin.TRAIN_STEPS=9", *evaluating, f"--model_dir={tmp_path}/run"]
    process = mtfrun_here("train", *train)
    assert process.returncode == 143, process.stderr.decode()
    assert process.stderr.decode().splitlines()[-1] == (
        "mtfrun: stopped and saved at step 2; the same command resumes"
    )
    assert len(calls) == 4
    assert RunDirectory(tmp_path / "run").checkpoints().steps() == [2]


@pytest.mark.usefixtures("hangup_not_ignored")
@pytest.mark.slow
def test_a_signal_before_the_first_step_waits_for_nothing(
    flags: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    calls: list[int] = []
    tracing = _signalling(step.loss_and_gradients, signal.SIGTERM, 1, calls)
    monkeypatch.setattr(step, "loss_and_gradients", tracing)
    run = tmp_path / "run"
    process = mtfrun_here("train", *flags, f"--model_dir={run}")
    assert process.returncode == 143
    assert process.stderr.decode().splitlines()[-1] == (
        "mtfrun: stopped before the first step; the same command resumes"
    )
    assert "mtfrun: ending before the first step; again to stop now\n" in capfd.readouterr().err
    status = RunDirectory(run).record().status()
    assert status is not None and (status.state, status.step) == ("stopped", 0)
    assert RunDirectory(run).checkpoints().steps() == []
    again = mtfrun_here("train", *flags, f"--model_dir={run}", "--gin.TRAIN_STEPS=1")
    assert again.returncode == 0 and RunDirectory(run).checkpoints().steps() == [1]


@pytest.mark.usefixtures("hangup_not_ignored")
@pytest.mark.slow
def test_a_limit_of_time_stops_a_run(flags: list[str], tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    train = ["train", *flags, f"--model_dir={run}", "--gin.TRAIN_STEPS=9", "--max_hours=1e-9"]
    process = mtfrun_here(*train)
    assert process.returncode == 0, process.stderr.decode()
    status = RunDirectory(run).record().status()
    assert status is not None and status.state == "stopped" and 0 < status.step < 9
    assert RunDirectory(run).checkpoints().steps() == [status.step]


@pytest.mark.usefixtures("hangup_not_ignored")
@pytest.mark.slow
def test_a_second_signal_ends_training_within_a_second(
    flags: list[str], tmp_path: pathlib.Path
) -> None:
    """Of a large model, whose step takes many seconds."""
    large = ["--gin.D_MODEL=512", "--gin.D_FF=4096", "--gin.BATCH_SIZE=256"]
    length = ["--gin.SEQUENCE_LENGTH=256", "--gin.TRAIN_STEPS=1000"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mtfrun.cli.main", "train"),
            *(*flags, *large, *length, f"--model_dir={tmp_path}/run"),
        ],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_handler(process.pid)
        time.sleep(8)  # until the devices run a step
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None, "the current step takes longer"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=1.0) == 143
    finally:
        process.kill()
        process.wait()


def _wait_for_handler(pid: int) -> None:
    """Waits until a process handles SIGTERM itself."""
    for _ in range(1200):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
        if int(caught, 16) & 1 << (signal.SIGTERM - 1):
            return
        time.sleep(0.1)
    raise AssertionError("no handler after two minutes")


LONGEST_SECS = 5.0


class _SignalledWhenDeleted:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)  # the handler is called between two bytecodes of this method


def _state() -> tuple[object, ...]:
    """Returns what the context changes."""
    return signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGTERM), sys.unraisablehook


def test_a_signal_that_arrives_while_an_object_is_deleted_is_not_lost() -> None:
    before = _state()
    start = time.monotonic()
    with pytest.raises(SystemExit) as caught, terminable():
        _SignalledWhenDeleted()
        while time.monotonic() - start < LONGEST_SECS:
            time.sleep(0.001)
    assert caught.value.code == 128 + signal.SIGTERM
    assert time.monotonic() - start < LONGEST_SECS
    assert _state() == before


def test_nothing_is_raised_without_a_signal() -> None:
    before = _state()
    with terminable():
        assert _state() != before
    assert _state() == before


def test_what_native_code_makes_of_the_exception_of_a_signal_is_not_a_defect() -> None:
    with pytest.raises(SystemExit) as caught, terminable():
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit:
            raise SystemError("while_loop returned a result with an exception set") from None
    assert caught.value.code == 128 + signal.SIGTERM
