"""Programs of the pages run."""

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
from tests.mtf.test_ops_under_layouts import CASES


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
    code = _readme().replace("/tmp/run", str(tmp_path / "run"))
    code = code.replace("=100", "=40").replace("TRAIN_STEPS=", "BATCH_SIZE=8, TRAIN_STEPS=")
    output = _run(code, tmp_path)
    bits, *_ = output.splitlines()
    assert float(bits) < 8
    assert "def " in output and "'embedding/table': (384, 128)" in output
    assert "log_likelihood" in output


PAGE = (ROOT / "docs/dtensor.md").read_text(encoding="utf-8")
ROWS = [
    line.strip("| ").split(" | ")
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| pattern"))
]


def _exists(test: str) -> bool:
    """Returns whether there is such a case of operations, or such a function `path::name`."""
    path, _, name = test.rpartition("::")
    if not path:
        return name in CASES
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return name.startswith("test_") and name in {function.name for function in functions}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_pattern_has_a_test_that_exists(row: list[str]) -> None:
    assert len(row) == 4
    tests = re.findall(r"`([^`]+)`", row[-1])
    assert tests
    assert [test for test in tests if not _exists(test)] == []


def test_workarounds_of_the_engine_name_tests_that_exist() -> None:
    named = set()
    path = ROOT / "mtfrun" / "mtf" / "placement" / "engine.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node) or ""
            named |= set(re.findall(r"tests/\S+::test_\w+", docstring))
            named |= set(re.findall(r"case `(\w+)`", docstring))
    assert len(named) >= 8
    assert [test for test in named if not _exists(test)] == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert len(ROWS) > 30
    assert not _exists("no_such_case")
    assert not _exists("tests/mtf/test_mesh.py::test_no_such_test")
