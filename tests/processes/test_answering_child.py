"""Programs that answer lines, and those that do not."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
from types import FrameType

import pytest

from mtfrun.processes.child_process import AnsweringChild, NoAnswerError

PROGRAM = """
import json, os, sys, time
for line in sys.stdin:
    time.sleep(json.loads(line))
    print(json.dumps({"process": os.getpid()}), flush=True)
"""


@pytest.fixture
def program(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_program_that_takes_too_long_is_ended_and_started_again(program: pathlib.Path) -> None:
    child = AnsweringChild(program, most_secs=5)
    first = child.ask("0")["process"]
    assert child.ask("0")["process"] == first
    child._most_secs = 0.1
    with pytest.raises(NoAnswerError):
        child.ask("60")
    assert not _is_running(first)
    child._most_secs = 5
    assert child.ask("0")["process"] != first


def test_a_signal_ends_the_program(program: pathlib.Path) -> None:
    child = AnsweringChild(program, most_secs=60)
    process = child.ask("0")["process"]

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, stop)
    try:
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
        with pytest.raises(SystemExit):
            child.ask("60")
    finally:
        signal.signal(signal.SIGTERM, former)
    assert not _is_running(process)
