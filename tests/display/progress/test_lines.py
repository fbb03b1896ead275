"""Tests of mtfrun.display.progress.lines: the log."""

from __future__ import annotations

import io
import pathlib
import re

from mtfrun.display import progress


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


def test_a_log_that_cannot_be_written_disturbs_nothing() -> None:
    stream = io.StringIO()
    with pathlib.Path("/dev/full").open("wb", buffering=0) as full, progress.log_to(full):
        progress.note("a line", stream)
    assert stream.getvalue() == "a line\n"
