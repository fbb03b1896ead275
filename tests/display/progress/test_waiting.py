"""Tests of mtfrun.display.progress.waiting."""

from __future__ import annotations

import io
import sys

import pytest

from mtfrun.display import progress
from tests.display.progress.terminals import terminal, without_colours


def test_in_a_pipe_there_is_a_line_at_the_beginning_and_one_with_the_seconds() -> None:
    stream, now = io.StringIO(), [0.0]
    with progress.waiting("compiling", "compiled", stream=stream, clock=lambda: now[0]):
        assert stream.getvalue() == "compiling\n"
        now[0] = 12.3
    assert stream.getvalue() == "compiling\ncompiled in 12 s\n"


def test_in_a_pipe_short_phases_print_nothing() -> None:
    stream = io.StringIO()
    with progress.waiting("building", stream=stream):
        pass
    assert stream.getvalue() == ""


def test_a_terminal_shows_the_elapsed_time_in_a_line_that_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["mtfrun.display.progress.waiting"], "_TICK_SECS", 0.01)
    secs = iter([0.0, 0.0, *(float(i) for i in range(60, 10_000))])
    with (
        terminal() as (screen, written),
        progress.waiting("compiling", stream=screen.stream, clock=lambda: next(secs)),
    ):
        while next(secs) < 70:
            pass
        progress.note("a line", screen.stream)
    text = without_colours(written[0])
    assert text.startswith("\rcompiling ... 0:00")
    assert "\ra line\n" in text and text.split("\r")[-2].strip() == ""
    assert "\x1b[2m" in written[0]


def test_an_error_removes_the_line_and_says_nothing() -> None:
    stream = io.StringIO()
    with (
        pytest.raises(ValueError, match="failed"),
        progress.waiting("compiling", "compiled", stream=stream),
    ):
        raise ValueError("failed")
    assert stream.getvalue() == "compiling\n"
