"""Counts about the structure of mtfrun; `bin/structure` prints them."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys

from tests.test_architecture import ROOT, SOURCES, parameters_of, questions_of_kind


def _count_type_errors() -> int:
    """Returns the number of errors that mypy finds, as strict as setup.cfg says."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "mtfrun"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if process.returncode not in (0, 1):
        raise RuntimeError(process.stdout + process.stderr)
    return len(re.findall(r": error: ", process.stdout))


def counts(paths: list[pathlib.Path]) -> dict[str, int]:
    """Returns the counts about some files, by what they count."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    trees = [ast.parse(text) for text in texts]
    questions = [call for tree in trees for call in questions_of_kind(tree)]
    names = [ast.unparse(call.func) for call in questions]
    parameters = [number for tree in trees for _, number in parameters_of(tree)]
    return {
        "files": len(paths),
        "files of at most 40 lines": sum(text.count("\n") <= 40 for text in texts),
        "lines": sum(text.count("\n") for text in texts),
        "isinstance on kinds": sum(name in ("isinstance", "issubclass") for name in names),
        "getattr on models and data": sum(name in ("getattr", "hasattr") for name in names),
        "parameters at most": max(parameters),
    }


def main() -> None:
    """Prints a line for every count."""
    for what, count in {**counts(SOURCES), "type errors": _count_type_errors()}.items():
        print(f"{count:>8,}  {what}")


if __name__ == "__main__":
    main()
