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
    """Returns a Markdown table of what has passed: a line per test, its cases together."""
    groups: dict[str, list[float]] = {}
    for line in {line["test"]: line for line in passed()}.values():
        # The test without its folder and the numbers of its cases.
        name = line["test"].removeprefix("tests/faults/test_").replace(".py::test_", ": ")
        group = re.sub(r"-?\b\d+\]$", "]", name.replace("_", " ")).replace("[]", "")
        groups.setdefault(group, []).append(line["secs"])
    rows = ["| test | passed | minutes |", "| --- | --- | --- |"]
    for group, secs in sorted(groups.items()):
        rows.append(f"| {group} | {len(secs)} | {sum(secs) / 60:.1f} |")
    return rows
