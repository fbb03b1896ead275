"""The page on DTensor: every pattern in its table names tests that exist."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

from tests.mtf.test_ops_under_layouts import CASES

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dtensor.md").read_text(encoding="utf-8")
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
    path = ROOT / "mtfrun" / "mtf" / "engine.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node) or ""
            named |= set(re.findall(r"tests/\S+::test_\w+", docstring))
            named |= set(re.findall(r"case `(\w+)`", docstring))
    assert len(named) >= 9
    assert [test for test in named if not _exists(test)] == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert len(ROWS) > 30
    assert not _exists("no_such_case")
    assert not _exists("tests/mtf/test_mesh.py::test_no_such_test")
