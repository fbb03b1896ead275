"""Faults hit processes at their steps; a small program stands for the training."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import sys
from collections.abc import Callable, Sequence

import pytest

from mtfrun.errors import InputError
from mtfrun.rundir.ledger import LedgerRecord, LedgerWriter
from mtfrun.tools.chaos import trial
from mtfrun.tools.chaos.jumping_clock import JumpingClock, clock_of, jump
from mtfrun.tools.chaos.plan import read_plan
from mtfrun.tools.chaos.trial import Trial
from mtfrun.tools.chaos.verdict import ledger_differences
from mtfrun.tools.launch.children import Output
from mtfrun.tools.launch.launcher import Launch, Program

# Trains 40 steps, with a checkpoint after every tenth. It copies a ledger, without the seconds that
# imports take.
_PROGRAM = """
import os, pathlib, re, sys, time

flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
run = pathlib.Path(flags["model_dir"])
if flags["process_id"] == "1":
    while not (run / "finished").exists():
        time.sleep(0.01)
    sys.exit()
checkpoints = run / "checkpoints"
checkpoints.mkdir(parents=True, exist_ok=True)
start = max((int(path.stem[5:]) for path in checkpoints.iterdir()), default=0)
plan = pathlib.Path(__file__).with_name("plan.gin").read_text()
pauses = [] if "undisturbed" in run.name else re.findall(r"at_step = (\\d+)", plan)
copied = pathlib.Path(__file__).with_name("ledger" if start == 0 else "resumed_ledger").read_bytes()
header = copied.index(b"\\n") + 1
size = (len(copied) - header) // 40
with (run / "ledger").open("ab") as ledger:
    if start == 0:
        ledger.write(copied[:header])
        ledger.flush()
    ledger.truncate(header + start * size)
    time.sleep(0.2 if start else 0)  # it compiles
    for step in range(start + 1, 41):
        try:
            ledger.write(copied[header + (step - 1) * size : header + step * size])
            ledger.flush()
        except OSError as error:
            os._exit(2)
        if str(step) in pauses:
            time.sleep(0.4)  # the launcher looks at the ledger meanwhile
        if step % 10 == 0:
            (checkpoints / f"ckpt-{step}.json").touch()
(run / "finished").touch()
"""


def _write_ledger(path: pathlib.Path, batches: Sequence[int]) -> None:
    writer = LedgerWriter(path.parent)
    writer.begin(0)
    writer.append([LedgerRecord(i, batch, 0, 0, 0, 0) for i, batch in enumerate(batches, 1)])
    (path.parent / "ledger").rename(path)


@dataclasses.dataclass(frozen=True)
class Tried:
    """A trial that has ended: its exit code, the lines of its table and of its processes."""

    code: int
    rows: Sequence[str]
    notes: Sequence[str]
    run: pathlib.Path


@pytest.fixture
def tried(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Tried]:
    """A function that tries a plan; ledgers alone are compared, which needs no TensorFlow."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(trial, "judge", lambda _, *runs: list(ledger_differences(*runs)))
    (tmp_path / "program.py").write_text(_PROGRAM)
    for name in ("resumed_ledger", "ledger"):
        _write_ledger(tmp_path / name, range(1, 41))

    def trying(text: str, number: int = 1, against: str | None = str(tmp_path)) -> Tried:
        (tmp_path / "plan.gin").write_text(text)
        run, stream = tmp_path / "run", io.StringIO()
        file, command = str(tmp_path / "program.py"), ["train", f"--model_dir={run}"]
        program = Program([sys.executable], [file], command, str(run))
        launch = Launch(program, number, grace_secs=0.1)
        code = Trial(launch, read_plan(str(tmp_path / "plan.gin"), []), against).run(Output(stream))
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        return Tried(code, lines, stream.getvalue().splitlines(), run)

    return trying


def test_kills_and_a_delay_leave_the_ledger_as_it_was(tried: Callable[..., Tried]) -> None:
    result = tried(
        "Chaos.events = [@Kill(), @late/Kill(), @Delay()]\nKill.at_step = 15\n"
        "late/Kill.at_step = 35\nDelay.at_step = 25\nDelay.secs = 0.1",
        against=None,
    )
    assert result.code == 0, result
    heading, first, delay, second, verdict = result.rows
    assert heading == "fault step seen at process what was done what followed"
    killed = "0 SIGKILL process 0 of 1 was ended by SIGKILL; resumed from step"
    assert first == f"Kill 15 15 {killed} 10"
    assert delay == "Delay 25 25 0 SIGSTOP, SIGCONT after 0.1 s went on"
    assert second == f"Kill 35 35 {killed} 30"
    assert verdict.startswith("identical to ")
    assert verdict.endswith("run.undisturbed: 40 steps, all curves and variables, to the bit")


def test_one_of_two_processes_is_killed_and_both_start_again(tried: Callable[..., Tried]) -> None:
    result = tried("Chaos.events = [@Kill()]\nKill.at_step = 15\nKill.process = 1", number=2)
    assert result.code == 0, result
    assert result.rows[1].endswith("process 1 of 2 was ended by SIGKILL; resumed from step 10")


def test_a_full_disk_ends_a_process_and_is_empty_for_the_next(tried: Callable[..., Tried]) -> None:
    result = tried("Chaos.events = [@FullDisk()]\nFullDisk.at_step = 15")
    assert result.code == 0, result
    assert "no file can become larger than 0 bytes" in result.rows[1]
    assert result.rows[1].endswith("process 0 of 1 failed with exit code 2; resumed from step 10")


def test_a_difference_is_named_with_its_first_step(
    tried: Callable[..., Tried], tmp_path: pathlib.Path
) -> None:
    # A part of the training is not saved: the order of the data after the start of the process.
    (tmp_path / "ledger").rename(tmp_path / "former")
    _write_ledger(tmp_path / "resumed_ledger", [*range(1, 12), 99, *range(13, 41)])
    (tmp_path / "former").rename(tmp_path / "ledger")
    result = tried("Chaos.events = [@Kill()]\nKill.at_step = 15")
    assert result.code == 5
    assert result.rows[-2].startswith(f"{result.run} differs from ")
    assert result.rows[-1] == (
        "the batch of step 12 differs: 0000000000000063, and 000000000000000c undisturbed"
    )


def test_a_fault_that_did_not_happen_is_no_success(
    tried: Callable[..., Tried], tmp_path: pathlib.Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM.replace("step % 10 == 0", "step == 40"))
    result = tried("Chaos.events = [@FlipBit()]\nFlipBit.at_step = 15")  # of two checkpoints
    assert result.code == 5
    assert result.rows[1] == "FlipBit 15 - 0 did not happen"
    assert result.rows[2].startswith("identical to ")
    assert result.rows[3] == "1 of 1 fault(s) did not happen"


def test_a_run_that_fails_without_a_fault_has_its_exit_code(
    tried: Callable[..., Tried], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "program.py").write_text("import sys; sys.exit(7)")
    result = tried("Chaos.events = [@Kill()]", against=None)
    assert result.code == 7
    assert result.rows == []
    assert "process 0 of 1 failed with exit code 7" in result.notes[-1]


def test_a_run_that_does_not_survive_a_fault_is_not_started_for_ever(
    tried: Callable[..., Tried], tmp_path: pathlib.Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM.replace("with (run", "if start: sys.exit(2)\nwith (run"))
    result = tried("Chaos.events = [@Kill()]\nKill.at_step = 15")
    assert result.code == 2
    assert result.rows[1].endswith("process 0 of 1 was ended by SIGKILL")
    assert result.rows[2] == f"{result.run} has not ended: exit code 2"


def test_directories_that_are_used_are_refused(
    tried: Callable[..., Tried], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "run.undisturbed").mkdir()
    (tmp_path / "run.undisturbed/file").touch()
    with pytest.raises(InputError, match=r"is not empty, .* or give --against="):
        tried("Chaos.events = [@Kill()]", against=None)
    with pytest.raises(InputError, match="has no ledger: train it first"):
        tried("Chaos.events = [@Kill()]", against=str(tmp_path / "run.undisturbed"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/file").touch()
    with pytest.raises(InputError, match=r"is not empty, .* name another --model_dir"):
        tried("Chaos.events = [@Kill()]")


def test_the_clock_of_one_process_jumps(tmp_path: pathlib.Path) -> None:
    first, second = (JumpingClock(clock_of(tmp_path / "clock", i)) for i in range(2))
    jump(clock_of(tmp_path / "clock", 1), 5000.0)
    jump(clock_of(tmp_path / "clock", 1), 1000.0)
    assert second() - first() == pytest.approx(6000.0, abs=100.0)
