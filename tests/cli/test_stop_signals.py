"""The end of a command by a signal."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from mtfrun.cli.main import terminable

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
