"""The command `table`."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.cli.commands.table import FORMATS
from tests.cli.command import error_line, mtfrun_here
from tests.tools.sweep.synthetic_sweep import write_sweep


@pytest.fixture
def sweep(tmp_path: pathlib.Path) -> pathlib.Path:
    write_sweep(tmp_path / "sweep", {"baseline": [1.0, 3.0], "new": [0.5, 2.501]})
    return tmp_path / "sweep"


def test_a_table_marks_significant_differences(sweep: pathlib.Path) -> None:
    process = mtfrun_here("table", str(sweep))
    assert process.returncode == 0, process.stderr.decode()
    heading, first, second, *notes = process.stdout.decode().splitlines()
    assert heading.split()[:4] == ["row", "loss", "↓", "difference"]
    assert first.split()[:5] == ["baseline", "2", "±", "13", "-"]
    assert "-0.4995 ± 0.0064*" in second
    assert notes[-1].startswith("Those whose interval excludes 0 are marked by *")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_written(name: str, sweep: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "below" / "file"
    process = mtfrun_here("table", str(sweep), f"--format={name}", f"--output={file}")
    assert process.returncode == 0 and process.stdout == b"", process.stderr.decode()
    assert "baseline" in file.read_text()


def test_a_page_has_a_title_and_its_command(sweep: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = [f"--output={tmp_path / 'a.md'}", "--format=md"]
    assert mtfrun_here("table", str(sweep), *output).returncode == 0
    page = (tmp_path / "a.md").read_text()
    assert page.startswith("# sweep\n\n    mtfrun table ")
    printed = mtfrun_here("table", str(sweep), "--format=md", "--title=Is it?").stdout.decode()
    assert printed.startswith("# Is it?\n") and printed.splitlines()[4:] == page.splitlines()[4:]


def test_bad_input_is_one_line(sweep: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert "table needs the directory of one sweep" in error_line(mtfrun_here("table"))
    assert "has no sweep.json" in error_line(mtfrun_here("table", str(tmp_path)))
    line = error_line(mtfrun_here("table", str(sweep), "--metric=accuracy"))
    assert "--metric=accuracy: no evaluation has it; there are loss, other" in line
    write_sweep(tmp_path / "failed", {"baseline": ["loss is NaN"], "new": [None]})
    line = error_line(mtfrun_here("table", str(tmp_path / "failed"), "--metric=losss"))
    assert "--metric=losss: no evaluation has it; there are none yet" in line
    line = error_line(mtfrun_here("table", str(sweep), "--title=x"))
    assert "--title is of md, latex, html: leave it out" in line
    result = sweep / "results" / "new,SEED=1.json"
    result.write_text(result.read_text().replace('"parameters": 1500000', '"parameters": "x"'))
    assert "new,SEED=1.json is not the result of a run" in error_line(
        mtfrun_here("table", str(sweep))
    )
