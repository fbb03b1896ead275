"""Results of the long tests of faults, so that an interrupted `bin/test --faults` goes on.

A test that has passed writes a JSON line with the commit, its name, the day, seconds and its
figures (`record_property`) to `build/faults.jsonl`. On the same commit, with the same changes to
it, it is not run again.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import pathlib
import re
import subprocess
from collections.abc import Iterable
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
PATH = ROOT / "build" / "faults.jsonl"

# What a test depends on.
_SOURCES = ["mtfrun", "gin", "tests", "setup.cfg"]


@functools.cache
def commit() -> str:
    """Returns the commit, with a hash of the changes to it, if there are any."""
    head = _git("rev-parse", "HEAD").decode().strip()[:12]
    changes = _git("diff", "HEAD", "--", *_SOURCES)
    untracked = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *_SOURCES)
    for name in filter(None, untracked.decode().split("\0")):
        changes += name.encode() + (ROOT / name).read_bytes()
    return f"{head}+{hashlib.sha256(changes).hexdigest()[:8]}" if changes else head


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def passed() -> list[dict[str, Any]]:
    """Returns the lines of tests that have passed on this commit."""
    try:
        lines = PATH.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line for line in map(json.loads, lines) if line["commit"] == commit()]


def add(test: str, secs: float, figures: Iterable[tuple[str, object]]) -> None:
    """Adds a test that has passed."""
    line = {
        "commit": commit(),
        "test": test,
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "secs": round(secs, 1),
        "figures": dict(figures),
    }
    PATH.parent.mkdir(exist_ok=True)
    with PATH.open("a") as file:
        file.write(json.dumps(line) + "\n")


def table() -> list[str]:
    """Returns a Markdown table of what has passed: a line per test, its cases together.

    Of figures that are numbers it has the least and the greatest, of others how often each is.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in {line["test"]: line for line in passed()}.values():
        groups.setdefault(_group(line["test"]), []).append(line)
    rows = ["| test | passed | minutes | figures |", "| --- | --- | --- | --- |"]
    for group, lines in sorted(groups.items()):
        minutes = sum(line["secs"] for line in lines) / 60
        rows.append(f"| {group} | {len(lines)} | {minutes:.1f} | {_figures(lines)} |")
    return rows


def _group(test: str) -> str:
    """Returns the name of a test without its folder and the numbers of its cases."""
    name = test.removeprefix("tests/faults/test_").replace(".py::test_", ": ").replace("_", " ")
    return re.sub(r"-?\b\d+\]$", "]", name).replace("[]", "")


def _figures(lines: list[dict[str, Any]]) -> str:
    values: dict[str, list[Any]] = {}
    for line in lines:
        for name, value in line["figures"].items():
            values.setdefault(name, []).append(value)
    return "; ".join(f"{name} {_summary(several)}" for name, several in values.items())


def _summary(values: list[Any]) -> str:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values):
        counts = {str(value): values.count(value) for value in values}
        return ", ".join(f"{value} ({count})" for value, count in counts.items())
    least, greatest = min(numbers), max(numbers)
    return f"{least:g}" if least == greatest else f"{least:g} to {greatest:g}"
