"""The Python of the README and of the notebook runs, in a process of its own each."""

from __future__ import annotations

import ast
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.command import ROOT, environment


def _cells() -> list[dict[str, Any]]:
    notebook = json.loads((ROOT / "docs/python_api.ipynb").read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _readme() -> str:
    """Returns the first block of code in the README's section about Python."""
    section = (ROOT / "README.md").read_text("utf-8").split("\n## In Python\n")[1]
    block = re.match(r"\n((?: {4}.*\n|\n)+)", section)
    assert block is not None
    return re.sub(r"^ {4}", "", block[1], flags=re.MULTILINE)


def _run(code: str, directory: pathlib.Path) -> str:
    """Returns what a program prints in a directory."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**environment(), "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)},
        timeout=550,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_notebook_has_no_outputs_and_no_syntax_errors() -> None:
    cells = _cells()
    assert len(cells) >= 8
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


def test_the_readme_has_about_ten_lines_of_python() -> None:
    lines = [line for line in _readme().splitlines() if line]
    assert 10 <= len(lines) <= 12
    assert all(f"{use}(" in _readme() for use in ("train", "evaluate", "decode", "load", "configs"))


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_order(tmp_path: pathlib.Path) -> None:
    _run("\n".join("".join(cell["source"]) for cell in _cells()), tmp_path)


@pytest.mark.slow
def test_the_lines_of_the_readme_run(tmp_path: pathlib.Path) -> None:
    output = _run(_readme().replace("/tmp/run", str(tmp_path / "run")), tmp_path)
    bits, *_ = output.splitlines()
    assert float(bits) < 8
    assert "def " in output and "'embedding/table': (384, 128)" in output
    assert "log_likelihood" in output
