"""Tests of mtfrun.display.progress.bar: bars on terminals, lines in pipes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pytest

from mtfrun.display import progress
from mtfrun.display.progress import bar as work_module
from tests.display.progress.terminals import terminal, without_colours


def _lines(states: Sequence[tuple[float, float]], total: float | None, unit: str) -> list[str]:
    """Returns what is printed into a pipe if so much is done at a time in seconds."""
    stream, now = io.StringIO(), [0.0]
    with progress.Work("counting", total, unit, stream=stream, clock=lambda: now[0]) as work:
        for now[0], done in states:
            work.move_to(done)
    return stream.getvalue().splitlines()


def test_quick_work_prints_nothing_in_a_pipe() -> None:
    assert _lines([(0.0, 0), (5.0, 50), (9.9, 100)], 100, "rows") == []


def test_a_line_every_ten_seconds_says_how_far_and_when_it_ends() -> None:
    states = [(float(secs), 2e6 * secs) for secs in range(0, 51, 2)]
    assert _lines(states, 100e6, "B") == [
        "counting: 20.0 of 100.0 MB  eta 0:40",
        "counting: 40.0 of 100.0 MB  eta 0:30",
        "counting: 60.0 of 100.0 MB  eta 0:20",
        "counting: 80.0 of 100.0 MB  eta 0:10",
        "counting: 100.0 MB in 0:50",
    ]


def test_lines_become_rarer() -> None:
    hour = [(float(secs), secs) for secs in range(3601)]
    assert 35 < len(_lines(hour, 3601, "rows")) < 45


def test_without_a_total_there_is_no_remaining_time() -> None:
    assert _lines([(0.0, 0), (10.0, 1500), (11.0, 2000)], None, "rows") == [
        "counting: 1,500 rows",
        "counting: 2,000 rows in 0:11",
    ]


def test_work_that_was_partly_done_before_has_the_remaining_time_of_the_rest() -> None:
    stream, now = io.StringIO(), [0.0]
    with progress.Work(
        "counting", 100, "rows", done=80, stream=stream, clock=lambda: now[0]
    ) as work:
        now[0] = 10.0
        work.advance(10)
    assert stream.getvalue().splitlines()[0] == "counting: 90 of 100 rows  eta 0:10"


@pytest.mark.parametrize("columns", [80, 150])
def test_a_terminal_has_a_bar_that_fits_and_is_removed(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "_BAR_DELAY_SECS", 0.0)
    with (
        terminal(columns) as (screen, written),
        progress.Work("counting", 200, "rows", stream=screen.stream) as work,
    ):
        work.move_to(50, "7 bad")
        progress.note("a line", screen.stream)
    bars = [x.rstrip() for x in without_colours(written[0]).split("\r") if "|" in x]
    assert "counting  25%|" in bars[-1]
    assert "| 50 of 200 rows, 7 bad  eta " in bars[-1]
    assert all(len(bar) <= min(columns - 4, 100) for bar in bars)
    assert "\ra line\n" in written[0]
    assert written[0].split("\r")[-2].strip() == ""


def test_a_narrow_terminal_has_the_percentage_and_the_remaining_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_module, "_BAR_DELAY_SECS", 1e-9)
    with (
        terminal(40) as (screen, written),
        progress.Work("evaluating step 2000", 731, "batches", stream=screen.stream) as work,
    ):
        work.move_to(365, "7 bad")
        progress.note("a line", screen.stream)
    lines = [x.rstrip() for x in without_colours(written[0]).split("\r")]
    assert any(re.fullmatch(r"evaluating step 2000  50%  eta [\d:?]+", line) for line in lines)
    assert all(len(line) <= 36 for line in lines)


def test_a_dumb_terminal_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    now = [0.0]
    with terminal() as (screen, written):
        work_of = progress.Work("counting", 4, stream=screen.stream, clock=lambda: now[0])
        with work_of as work:
            now[0] = 10.0
            work.advance()
    assert written == ["counting: 1 of 4  eta 0:30\ncounting: 1 in 0:10\n"]


def test_the_innermost_work_is_present() -> None:
    assert progress.present_work() is None
    with progress.Work("outer"):
        with progress.Work("inner"):
            assert progress.present_work() == "inner"
        assert progress.present_work() == "outer"
        with pytest.raises(ValueError, match="ended"), progress.Work("inner"):
            raise ValueError("ended")
    assert progress.present_work() is None
