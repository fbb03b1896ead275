"""Tests of mtfrun.display.progress.screen: colours, and lines that fit a terminal."""

from __future__ import annotations

import io

import pytest

from mtfrun.display import progress
from tests.display.progress.terminals import terminal, without_colours

FIELDS: list[tuple[str, progress.Style | None]] = [
    ("eval step 2000", "bold"),
    *((f"metric_{i} 0.1234", None) for i in range(8)),
]


def test_colours_are_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert progress.apply_style("x", "red", io.StringIO()) == "x"
    with terminal() as (screen, _):
        assert progress.apply_style("x", "red", screen.stream) == "\x1b[31mx\x1b[0m"
        monkeypatch.setenv("NO_COLOR", "")  # as if it were not set
        assert progress.apply_style("x", "red", screen.stream) == "\x1b[31mx\x1b[0m"
        monkeypatch.setenv("NO_COLOR", "1")
        assert progress.apply_style("x", "red", screen.stream) == "x"
        monkeypatch.delenv("NO_COLOR")
        monkeypatch.setenv("TERM", "dumb")
        assert progress.apply_style("x", "red", screen.stream) == "x"


@pytest.mark.parametrize("columns", [40, 80, 150])
def test_fields_fill_the_lines_of_a_terminal(columns: int) -> None:
    with terminal(columns) as (screen, _):
        text = progress.fit_fields(FIELDS, indent=4, stream=screen.stream)
    first, *others = without_colours(text).split("\n")
    assert all(len(line) < columns for line in (first, *others))
    assert all(line.startswith("    metric") for line in others)
    assert "  ".join([first, *(line[4:] for line in others)]) == "  ".join(x for x, _ in FIELDS)
    # A line ends only where the next field has no room.
    assert len(first) + 2 + len("metric_0 0.1234") >= columns


def test_fields_are_one_line_in_a_pipe() -> None:
    text = progress.fit_fields(FIELDS, indent=4, stream=io.StringIO())
    assert text == "  ".join(field for field, _ in FIELDS)


def test_labelled_lines_fit_the_terminal_and_commands_stay_whole() -> None:
    texts = {
        "data": "9 documents, 1,200 tokens and more of many files",
        "last": "loss 1.2345  bits_per_byte 1.2345  accuracy 0.5",
        "next": "mtfrun eval --model_dir=/tmp/a_long_name_of_a_run",
    }
    with terminal(40) as (screen, _):
        shown = without_colours(progress.label_lines(texts, screen.stream))
    assert shown.split("\n") == [
        "data        9 documents, 1,200 tokens",
        "            and more of many files",
        "last        loss 1.2345",
        "            bits_per_byte 1.2345",
        "            accuracy 0.5",
        "next        mtfrun eval --model_dir=/tmp/a_long_name_of_a_run",
    ]
    assert progress.label_lines(texts, io.StringIO()).count("\n") == 2
