"""Tests of mtfrun.training.signals: the first signal is polite, the second one is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mtfrun.training import signals
from mtfrun.training.signals import Stopped, StopSignals

pytestmark = pytest.mark.usefixtures("hangup_not_ignored")

# Runs the file alone, without the seconds that TensorFlow takes: a program that is in native code
# for ten minutes, where Python calls no handler.
BUSY = """
import hashlib, runpy, sys
signals = runpy.run_path(sys.argv[1])
with signals["StopSignals"]() as stop:
    print("busy", flush=True)
    for _ in range(int(sys.argv[2])):
        hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[3]))
        if stop.received:
            sys.exit(100 + stop.received)
"""


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen]]:
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def _busy(processes: list, rounds: int, length: int, *, prefix: str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", prefix + BUSY, signals.__file__, str(rounds), str(length)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    processes.append(process)
    assert process.stdout is not None and process.stdout.readline() == "busy\n"
    return process


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_native_code_within_a_second(first, second, processes):
    process = _busy(processes, 1, 2_000_000_000)
    process.send_signal(first)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(second)
    assert process.wait(timeout=1.0) == 128 + second


def test_one_signal_lets_the_work_be_finished(processes):
    process = _busy(processes, 1000, 100_000)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 100 + signal.SIGHUP


def test_a_closed_terminal_may_send_two_signals(processes):
    process = _busy(processes, 1, 1_000_000)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    assert process.wait(timeout=20) == 100 + signal.SIGHUP


def test_nohup_goes_on(processes):
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = _busy(processes, 1, 1_000_000, prefix=ignoring)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 0


def test_handlers_are_as_before_afterwards():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    former = [signal.getsignal(number) for number in numbers]
    with StopSignals() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received == signal.SIGHUP
        with pytest.raises(Stopped):
            stop.check()
    assert [signal.getsignal(number) for number in numbers] == former
    assert signal.set_wakeup_fd(-1) == -1
