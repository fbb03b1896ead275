"""Real processes that join, agree, fail and are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from mtfrun import processes
from mtfrun.errors import ExitCode, InputError
from tests.processes.threads import free_address

# Runs as process INDEX of COUNT at ADDRESS; then what the test says.
_START = """
import os, signal, sys, time
from mtfrun import processes
from mtfrun.errors import InputError
count, index, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
processes.join(
    count, index, address,
    timeouts=processes.Timeouts(10.0, 0.05, 1.5, 1.0),
    before_exit=lambda: print("files are removed", flush=True),
)
"""

# Longest time until the end of a process, far above what the timeouts above allow.
_END_SECS = 15.0


class _Run:
    def __init__(self, count: int, body: str):
        address = str(free_address())
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", _START + body, str(count), str(index), address],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(count)
        ]

    def first_line(self, index: int) -> str:
        stdout = self.processes[index].stdout
        assert stdout is not None
        return stdout.readline()

    def ends(self) -> list[tuple[int, str, str]]:
        ends = []
        for process in self.processes:
            output, errors = process.communicate(timeout=_END_SECS)
            ends.append((process.returncode, output, errors))
        return ends

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[int, str], _Run]]:
    runs: list[_Run] = []

    def begin(count: int, body: str) -> _Run:
        runs.append(_Run(count, body))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def test_a_process_alone_agrees_with_itself() -> None:
    assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
    assert processes.agree([1, "a"]) == [1, "a"]
    assert processes.gather(2.5) == [2.5]
    assert processes.by_first(lambda: 3) == 3
    assert processes.fail("an error")
    with pytest.raises(InputError, match=r"^mine$"), processes.together("block"):
        raise InputError("mine")


def test_joining_needs_an_address() -> None:
    processes.join(1, 0, "unused")
    assert processes.count() == 1
    with pytest.raises(InputError, match="is not a host:port"):
        processes.join(2, 1, "localhost")


def test_processes_agree(start: Callable[[int, str], _Run]) -> None:
    body = """
print(processes.agree(10 * index), processes.gather(index), processes.by_first(lambda: [index]))
with processes.together("nothing"):
    pass
try:
    with processes.together("save"):
        if index == 1:
            raise InputError("the disk is full")
except InputError as error:
    print(error)
try:
    with processes.together("read"):
        raise InputError("damaged")
except InputError as error:
    print(type(error).__name__, error)
def choose():
    raise InputError("there is none")
try:
    processes.by_first(choose)
except InputError as error:
    print(error)
try:
    with processes.together("defect"):
        if index == 0:
            raise KeyError("name")
except Exception as error:
    print(type(error).__name__, error)
processes.leave()
print(processes.count())
"""
    same = "0 [0, 1] [0]\nprocess 1 of 2: the disk is full\nInputError damaged\nthere is none\n"
    assert start(2, body).ends() == [
        (0, same + "KeyError 'name'\n1\n", ""),
        (0, same + "ProcessesError process 0 of 2: 'name'\n1\n", ""),
    ]


def test_processes_with_different_settings_say_which(start: Callable[[int, str], _Run]) -> None:
    body = """
processes.check_same("command", {"--seed": 1, "text": "x" * 1000})
processes.check_same("data", {"hash": 1, "time": index}, identity="hash")
for number in (1, 2):
    try:
        processes.check_same("configuration", {"a": 0, "SEED": index // number, "new": "x" * index})
    except InputError as error:
        line = str(error)
        print(line.replace(line[line.index("("):line.index(")")], "("))
processes.leave()
"""
    line = (
        "process {} of 3 () differs from process 0 in its configuration: SEED 0 -> 1; "
        "new  -> {}: start all processes with the same\n"
    )
    second = "process 1 of 3 () differs from process 0 in its configuration: new  -> x"
    output = line.format(1, "x") + second + ": start all processes with the same\n"
    assert start(3, body).ends() == [(0, output, "")] * 3


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_others_with_one_line(
    start: Callable[[int, str], _Run], victim: int, number: signal.Signals
) -> None:
    # The others wait in native code, as in a collective.
    body = """
processes.note_saved(300)
processes.gather(None, "ready")
print("ready", flush=True)
time.sleep(60)
"""
    run = start(2, body)
    for index in range(2):
        assert run.first_line(index) == "ready\n"
    began = time.monotonic()
    os.kill(run.processes[victim].pid, number)
    other = run.processes[1 - victim]
    output, errors = other.communicate(timeout=_END_SECS)
    assert time.monotonic() - began < _END_SECS
    assert (other.returncode, output) == (ExitCode.LOST_PROCESS, "files are removed\n")
    (line,) = errors.splitlines()
    assert line.startswith(f"mtfrun: error: process {victim} of 2 (pid {run.processes[victim].pid}")
    assert line.endswith("; step 300 is saved, and the same command resumes from there")


def test_an_error_ends_all_processes(start: Callable[[int, str], _Run]) -> None:
    body = """
processes.note_saved(0)
processes.gather(None, "ready")
if index == 1:
    assert processes.fail("no such word: 'blau'")
    print("mtfrun: error: mine", file=sys.stderr)
    processes.end(2)
time.sleep(60)
"""
    (code, _, errors), (failed_code, _, own_errors) = start(2, body).ends()
    assert (failed_code, own_errors) == (2, "mtfrun: error: mine\n")
    assert code == ExitCode.LOST_PROCESS
    (line,) = errors.splitlines()
    assert line.endswith("failed: no such word: 'blau'; no step was saved")
