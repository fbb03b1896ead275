"""Tests of mtfrun.display.progress: bars and lines on terminals and in pipes, the log, colours."""

from __future__ import annotations

import io
import pathlib
import re
import time
import types
from collections.abc import Sequence

import pytest

from mtfrun.display import progress
from mtfrun.display.streams import Style, apply_style
from mtfrun.display.table import fit_fields, label_lines
from tests.display.terminals import terminal, without_colours


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The present time of bars and lines, in seconds."""
    secs = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: secs[0], strftime=time.strftime)
    monkeypatch.setattr(progress, "time", clock)
    return secs


def _lines(
    now: list[float], states: Sequence[tuple[float, float]], total: float | None, unit: str
) -> list[str]:
    """Returns what is printed into a pipe if so much is done at a time in seconds."""
    stream, now[0] = io.StringIO(), 0.0
    with progress.Work("counting", total, unit, stream=stream) as work:
        for now[0], done in states:
            work.move_to(done)
    return stream.getvalue().splitlines()


def test_in_a_pipe_lines_say_how_far_work_is_and_when_it_ends_ever_more_rarely(
    now: list[float],
) -> None:
    assert _lines(now, [(0.0, 0), (5.0, 50), (9.9, 100)], 100, "rows") == []
    states = [(float(secs), 2e6 * secs) for secs in range(0, 51, 2)]
    assert _lines(now, states, 100e6, "B") == [
        "counting: 20.0 of 100.0 MB  eta 0:40",
        "counting: 40.0 of 100.0 MB  eta 0:30",
        "counting: 60.0 of 100.0 MB  eta 0:20",
        "counting: 80.0 of 100.0 MB  eta 0:10",
        "counting: 100.0 MB in 0:50",
    ]
    hour = [(float(secs), secs) for secs in range(3601)]
    assert 35 < len(_lines(now, hour, 3601, "rows")) < 45
    assert _lines(now, [(0.0, 0), (10.0, 1500), (11.0, 2000)], None, "rows") == [
        "counting: 1,500 rows",
        "counting: 2,000 rows in 0:11",
    ]


def test_work_that_was_partly_done_before_has_the_remaining_time_of_the_rest(
    now: list[float],
) -> None:
    stream = io.StringIO()
    with progress.Work("rows", 100, done=80, stream=stream) as work:
        now[0] = 10.0
        work.advance(10)
    assert stream.getvalue().splitlines()[0] == "rows: 90 of 100  eta 0:10"


@pytest.mark.parametrize("columns", [80, 150])
def test_a_terminal_has_a_bar_that_fits_and_is_removed(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_BAR_DELAY_SECS", 0.0)
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
    monkeypatch.setattr(progress, "_BAR_DELAY_SECS", 1e-9)
    with (
        terminal(40) as (screen, written),
        progress.Work("evaluating step 2000", 731, "batches", stream=screen.stream) as work,
    ):
        work.move_to(365, "7 bad")
        progress.note("a line", screen.stream)
    lines = [x.rstrip() for x in without_colours(written[0]).split("\r")]
    assert any(re.fullmatch(r"evaluating step 2000  50%  eta [\d:?]+", line) for line in lines)
    assert all(len(line) <= 36 for line in lines)


def test_a_dumb_terminal_has_lines(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with (
        terminal() as (screen, written),
        progress.Work("counting", 4, stream=screen.stream) as work,
    ):
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


def test_in_a_pipe_there_is_a_line_at_the_beginning_and_one_with_the_seconds(
    now: list[float],
) -> None:
    stream = io.StringIO()
    with progress.waiting("compiling", "compiled", stream=stream):
        assert stream.getvalue() == "compiling\n"
        now[0] = 12.3
    with progress.waiting("building", stream=stream):  # a short phase prints nothing
        pass
    assert stream.getvalue() == "compiling\ncompiled in 12 s\n"


def test_a_terminal_shows_the_elapsed_time_in_a_line_that_is_removed(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_TICK_SECS", 0.01)
    with terminal() as (screen, written), progress.waiting("compiling", stream=screen.stream):
        now[0] = 70.0
        time.sleep(0.1)  # several ticks
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


def test_a_log_has_every_line_after_its_time_and_without_colours(tmp_path: pathlib.Path) -> None:
    log, stream = tmp_path / "log", io.StringIO()
    with log.open("wb", buffering=0) as file, progress.log_to(file):
        progress.note("\x1b[1mbold\x1b[0m and\ntwo lines", stream)
        progress.log("only in the log")
    progress.note("afterwards", stream)
    lines = [
        re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", x) for x in log.read_text().split("\n")
    ]
    assert lines == ["bold and", "two lines", "only in the log", ""]
    assert "only" not in stream.getvalue()
    stream = io.StringIO()  # a log that cannot be written disturbs nothing
    with pathlib.Path("/dev/full").open("wb", buffering=0) as full, progress.log_to(full):
        progress.note("a line", stream)
    assert stream.getvalue() == "a line\n"


FIELDS: list[tuple[str, Style | None]] = [
    ("eval step 2000", "bold"),
    *((f"metric_{i} 0.1234", None) for i in range(8)),
]


def test_colours_are_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert apply_style("x", "red", io.StringIO()) == "x"
    with terminal() as (screen, _):
        assert apply_style("x", "red", screen.stream) == "\x1b[31mx\x1b[0m"
        monkeypatch.setenv("NO_COLOR", "")  # as if it were not set
        assert apply_style("x", "red", screen.stream) == "\x1b[31mx\x1b[0m"
        monkeypatch.setenv("NO_COLOR", "1")
        assert apply_style("x", "red", screen.stream) == "x"
        monkeypatch.delenv("NO_COLOR")
        monkeypatch.setenv("TERM", "dumb")
        assert apply_style("x", "red", screen.stream) == "x"


@pytest.mark.parametrize("columns", [40, 80, 150])
def test_fields_fill_the_lines_of_a_terminal(columns: int) -> None:
    with terminal(columns) as (screen, _):
        text = fit_fields(FIELDS, indent=4, stream=screen.stream)
    first, *others = without_colours(text).split("\n")
    assert all(len(line) < columns for line in (first, *others))
    assert all(line.startswith("    metric") for line in others)
    assert "  ".join([first, *(line[4:] for line in others)]) == "  ".join(x for x, _ in FIELDS)
    # A line ends only where the next field has no room.
    assert len(first) + 2 + len("metric_0 0.1234") >= columns
    # In a pipe they are one line.
    text = fit_fields(FIELDS, indent=4, stream=io.StringIO())
    assert text == "  ".join(field for field, _ in FIELDS)


def test_labelled_lines_fit_the_terminal_and_commands_stay_whole() -> None:
    texts = {
        "data": "9 documents, 1,200 tokens and more of many files",
        "last": "loss 1.2345  bits_per_byte 1.2345  accuracy 0.5",
        "next": "mtfrun eval --model_dir=/tmp/a_long_name_of_a_run",
    }
    with terminal(40) as (screen, _):
        shown = without_colours(label_lines(texts, screen.stream))
    assert shown.split("\n") == [
        "data        9 documents, 1,200 tokens",
        "            and more of many files",
        "last        loss 1.2345",
        "            bits_per_byte 1.2345",
        "            accuracy 0.5",
        "next        mtfrun eval --model_dir=/tmp/a_long_name_of_a_run",
    ]
    assert label_lines(texts, io.StringIO()).count("\n") == 2
