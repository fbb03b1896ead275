"""The launcher starts, forwards, ends and restarts processes; small programs stand for mtfrun."""

from __future__ import annotations

import io
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from mtfrun.cli import launcher
from mtfrun.cli.launcher import Launcher, Outcome, Output
from mtfrun.cli.parser import parse_flags
from mtfrun.errors import ExitCode, InputError
from tests.cli.command import ROOT

# Until processes that remain after a failure are killed.
GRACE_SECS = 0.5
# A program that hangs is noticed after these.
PATIENCE_SECS = 20.0
KILLED, LOST = -signal.SIGKILL, ExitCode.LOST_PROCESS

# What the programs of the tests begin with; each gets a process's flags.
_HEADER = """
import os, pathlib, signal, sys, time
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
process, count = int(flags["process_id"]), int(flags["num_processes"])
folder = pathlib.Path(os.environ["FOLDER"])
def say(text):
    print(text, file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize(
    ("outcome", "cause", "code", "lost", "is_transient"),
    [
        (Outcome({0: 0, 1: 0}), None, 0, set(), False),
        (Outcome({1: KILLED, 0: LOST}), 1, 137, {1}, True),
        (Outcome({0: LOST, 1: KILLED}), 1, 137, {1}, True),
        (Outcome({0: 1, 1: LOST}), 0, 1, set(), True),
        (Outcome({0: LOST, 2: LOST, 1: KILLED}, {1}), 1, 137, {1}, True),
        (Outcome({1: 2, 0: KILLED}, {0}), 1, 2, set(), False),
        (Outcome({0: 3, 1: 3}), 0, 3, set(), False),
        (Outcome({0: LOST, 1: LOST}), 0, LOST, set(), True),
        (Outcome({0: 143, 1: 143}, signal=15), 0, 143, set(), False),
        (Outcome({0: LOST, 1: 143}, signal=15), 1, 143, set(), False),
        (Outcome({0: -15, 1: LOST}, signal=15), 0, 143, set(), False),
        (Outcome({0: 2, 1: 143}, signal=15), 0, 2, set(), False),
    ],
)
def test_the_cause_of_an_end(
    outcome: Outcome, cause: int | None, code: int, lost: set[int], is_transient: bool
) -> None:
    assert (outcome.cause, outcome.code) == (cause, code)
    assert (outcome.lost, outcome.is_transient) == (lost, is_transient)


class Launched(NamedTuple):
    """A launch that has ended."""

    code: int
    lines: Sequence[str]
    secs: float


@pytest.fixture
def launch(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launched]:
    """A function that launches a Python program of several processes."""
    monkeypatch.setenv("FOLDER", str(tmp_path))

    def launch(
        program: str,
        number: int = 2,
        *flags: str,
        shrink: Callable[[Launcher, int], str] = Launcher.shrink,
        stdin: int | None = None,
        grace_secs: float = GRACE_SECS,
    ) -> Launched:
        file = tmp_path / "program.py"
        file.write_text(_HEADER + textwrap.dedent(program))
        stream, start = io.StringIO(), time.monotonic()
        train = ["train", "--gin_file=a", f"--model_dir={tmp_path}"]
        parsed = parse_flags(["launch", "-n", str(number), *flags, "--", *train])
        monkeypatch.setattr(Launcher, "shrink", shrink)
        monkeypatch.setattr(launcher, "GRACE_SECS", grace_secs)
        starter = Launcher(
            parsed,
            ["train", "--restart", "--a=b"],
            Output(stream),
            program=[sys.executable, str(file)],
            stdin=stdin,
        )
        return Launched(starter.run(), stream.getvalue().splitlines(), time.monotonic() - start)

    return launch


def test_every_process_gets_its_number_and_the_command(launch: Callable[..., Launched]) -> None:
    launched = launch("say(' '.join(sys.argv[1:]))", 3, "--devices_per_process=2")
    assert launched.code == 0
    port = launched.lines[0].partition("127.0.0.1:")[2].split()[0]
    assert sorted(launched.lines, key=lambda line: line.partition("--process_id")[2]) == [
        f"{prefix}--process_id={number} --num_processes=3 --coordinator=127.0.0.1:{port} "
        "--devices_per_process=2 --join_secs=25 train --restart --a=b"
        for number, prefix in enumerate(["", "[1] ", "[2] "])
    ]


def test_the_first_failure_is_the_exit_code_and_what_remains_is_killed(
    launch: Callable[..., Launched],
) -> None:
    launched = launch("sys.exit(7) if process == 1 else time.sleep(60)")
    assert launched.code == 7
    assert launched.lines == [
        "mtfrun: error: process 1 of 2 failed with exit code 7; no step is saved"
    ]
    assert GRACE_SECS <= launched.secs < PATIENCE_SECS


def test_a_killed_process_is_named_with_the_last_saved_step(
    launch: Callable[..., Launched], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("ckpt-30.json", "ckpt-4.json", "ckpt-50.index"):
        (tmp_path / "checkpoints" / name).touch()
    launched = launch("os.kill(os.getpid(), signal.SIGKILL) if process == 0 else time.sleep(60)")
    assert launched.code == 128 + signal.SIGKILL
    assert launched.lines == [
        "mtfrun: error: process 0 of 2 was ended by SIGKILL; the last saved step is 30"
    ]


def test_a_stopped_process_that_others_miss_is_the_cause_and_killed_at_once(
    launch: Callable[..., Launched],
) -> None:
    program = """
        if process == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.2)
        say("mtfrun: error: process 1 of 2 sends no heartbeat")
        sys.exit(4)
    """
    launched = launch(program, grace_secs=60.0)
    assert launched.lines == ["mtfrun: error: process 1 of 2 sends no heartbeat"]
    assert launched.code == 128 + signal.SIGKILL
    assert launched.secs < PATIENCE_SECS


def test_messages_that_several_processes_print_are_shown_once(
    launch: Callable[..., Launched],
) -> None:
    program = """
        say("mtfrun: warning: a rule")
        say("mtfrun: error: bad input")
        say("else")
        print("to standard output", flush=True) if process else None
        sys.exit(2)
    """
    launched = launch(program, 3)
    assert sorted(launched.lines) == [
        "[1] else",
        "[1] to standard output",
        "[2] else",
        "[2] to standard output",
        "else",
        "mtfrun: error: bad input",
        "mtfrun: warning: a rule",
    ]
    assert launched.code == 2


_FAILS_TWICE = """
    starts = len(list(folder.glob(f"start-{process}-*")))
    (folder / f"start-{process}-{starts}").touch()
    say(f"{count} {'--restart' in sys.argv} {flags.get('gin.MESH', '')}") if process == 0 else None
    if process == count - 1 and starts < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(4 if starts < 2 else 0)
"""


def test_all_are_started_again_after_a_loss(launch: Callable[..., Launched]) -> None:
    launched = launch(_FAILS_TWICE, 2, "--max_restarts=3")
    assert launched.code == 0
    assert [line for line in launched.lines if line.startswith("mtfrun: process")] == [
        "mtfrun: process 1 of 2 was ended by SIGKILL; starting all again, from the beginning "
        f"(restart {number} of 3)"
        for number in (1, 2)
    ]


def test_restarts_have_an_end(launch: Callable[..., Launched]) -> None:
    launched = launch(_FAILS_TWICE, 2, "--max_restarts=1")
    assert launched.code == 128 + signal.SIGKILL
    assert launched.lines[-1].startswith("mtfrun: error: process 1 of 2 was ended by SIGKILL; ")


@pytest.mark.parametrize("code", [2, 3])
def test_what_would_fail_again_is_not_started_again(
    code: int, launch: Callable[..., Launched]
) -> None:
    launched = launch(
        f"say('x') if process == 0 else None; sys.exit({code})", 2, "--max_restarts=3"
    )
    assert launched.code == code and launched.lines.count("x") == 1


def test_lost_processes_are_left_out(launch: Callable[..., Launched]) -> None:
    asked = []

    def shrink(starter: Launcher, remaining: int) -> str:
        asked.append((starter.num_processes, remaining))
        starter.num_processes = {3: 2, 1: 1}[remaining]
        starter.command.append(f"--gin.MESH='data:{starter.num_processes}'")
        return f"data:{starter.num_processes}"

    launched = launch(_FAILS_TWICE, 4, "--max_restarts=2", "--elastic", shrink=shrink)
    assert launched.code == 0 and asked == [(4, 3), (2, 1)]
    assert [line for line in launched.lines if not line.startswith("mtfrun: error")] == [
        "4 True ",
        "mtfrun: process 3 of 4 was ended by SIGKILL; going on with 2 process(es), mesh data:2, "
        "from the beginning (restart 1 of 2)",
        "2 False 'data:2'",
        "mtfrun: process 1 of 2 was ended by SIGKILL; going on with 1 process(es), mesh data:1, "
        "from the beginning (restart 2 of 2)",
        "1 False 'data:1'",
    ]


def test_a_run_that_fits_no_smaller_mesh_ends(launch: Callable[..., Launched]) -> None:
    def shrink(starter: Launcher, remaining: int) -> str:
        raise InputError("batch 8 does not divide")

    launched = launch(_FAILS_TWICE, 2, "--max_restarts=2", "--elastic", shrink=shrink)
    assert launched.code == 128 + signal.SIGKILL
    assert launched.lines[-1] == (
        "mtfrun: error: process 1 of 2 was ended by SIGKILL; batch 8 does not divide"
    )


def test_an_error_of_a_process_leaves_none_out(launch: Callable[..., Launched]) -> None:
    program = """
        first = folder / f"started-{process}"
        if not first.exists():
            first.touch()
            sys.exit(1 if process == 0 else 4)
    """
    launched = launch(program, 2, "--max_restarts=1", "--elastic")
    assert launched.code == 0
    (line,) = launched.lines
    assert line.startswith("mtfrun: process 0 of 2 failed with exit code 1; starting all again, ")


_STOPS = """
    def stop(number, _):
        say(f"{process} stopped")
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    (folder / f"ready-{process}").write_text(str(os.getpid()))
    time.sleep(60)
"""


def _signal_when_ready(folder: pathlib.Path, number: int, pid: int) -> None:
    while len(list(folder.glob("ready-*"))) < 2:
        time.sleep(0.05)
    os.kill(pid, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_processes_once(
    number: int, launch: Callable[..., Launched], tmp_path: pathlib.Path
) -> None:
    sending = threading.Thread(target=_signal_when_ready, args=[tmp_path, number, os.getpid()])
    sending.start()
    launched = launch(_STOPS, 2, "--max_restarts=3")
    sending.join()
    assert launched.code == 128 + number
    assert sorted(launched.lines) == ["0 stopped", "[1] 1 stopped"]


def test_process_0_reads_standard_input(launch: Callable[..., Launched]) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"typed")
    os.close(writer)
    launched = launch("say(repr(sys.stdin.read()))", stdin=reader)
    os.close(reader)
    assert sorted(launched.lines) == ["'typed'", "[1] ''"]


def test_a_question_of_process_0_is_shown_before_its_line_ends() -> None:
    stream = io.StringIO()
    reader, writer = os.pipe()
    output = Output(stream, is_conversation=True)
    thread = threading.Thread(target=output.forward, args=[0, os.fdopen(reader, "rb")])
    thread.start()
    os.write(writer, b"> ")
    while stream.getvalue() != "> ":
        time.sleep(0.01)
    for _ in range(2):
        os.write(writer, b"mtfrun: error: x\n")
    os.close(writer)
    thread.join()
    assert stream.getvalue() == "> mtfrun: error: x\n" and output.has_error


@pytest.mark.slow
def test_processes_end_with_a_launcher_that_is_killed(tmp_path: pathlib.Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        _HEADER + "from mtfrun.processes.child_process import end_with_launcher\n"
        "say(end_with_launcher())\n" + textwrap.dedent(_STOPS)
    )
    parent = (
        "import sys; from mtfrun.cli.launcher import *; "
        "from mtfrun.cli.parser import parse_flags; "
        "flags = parse_flags(['launch', '-n', '2', '--', 'eval', '--model_dir=a']); "
        f"Launcher(flags, ['eval'], Output(sys.stderr), typed=['a', 'b'], "
        f"program=[sys.executable, {str(child)!r}]).run()"
    )
    environment = {**os.environ, "FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        _signal_when_ready(tmp_path, signal.SIGKILL, process.pid)
        assert process.stderr is not None
        assert sorted(process.stderr.read().splitlines()) == ["['a', 'b']", "[1] ['a', 'b']"]
    pids = [int(file.read_text()) for file in tmp_path.glob("ready-*")]
    limit = time.monotonic() + PATIENCE_SECS
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.05)
