"""Runs the slow tests, a portion in a process: TensorFlow keeps all programs of a process.

    python -m tests.portions [ARGUMENT ...]    # of pytest: paths, -k

A portion has tests of one file, or of several small ones. PYTEST_WORKERS run at once (default: 2).
"""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

# 50 of imported language models took 6.5 GB, 30 of the core at most 2.2.
_MOST_OF_EXTRAS, _MOST_OF_CORE = 30, 60
_PYTEST = [str(pathlib.Path(sys.executable).with_name("pytest")), "-q", "-m", "slow"]


class Portion(NamedTuple):
    """A list of tests by their names, and its place in the list of portions."""

    number: int
    tests: Sequence[str]


def collect(arguments: Sequence[str]) -> list[str]:
    """Returns the names of the slow tests; ends the program where pytest finds a mistake."""
    process = subprocess.run(
        [*_PYTEST, "--collect-only", *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode:
        sys.stderr.write(process.stdout + process.stderr)
        sys.exit(process.returncode)
    return [line for line in process.stdout.splitlines() if "::" in line]


def divide(names: Sequence[str], most: int) -> Iterator[list[str]]:
    """Yields lists of at most so many names; no other file is in those of a file with more."""
    small: list[str] = []
    for _, of_file in itertools.groupby(names, key=lambda name: name.partition("::")[0]):
        tests = list(of_file)
        if len(tests) > most:
            yield from (tests[i : i + most] for i in range(0, len(tests), most))
        elif len(small) + len(tests) > most:
            yield small
            small = tests
        else:
            small += tests
    if small:
        yield small


class Outcome(NamedTuple):
    """Whether the tests of a portion pass, and the greatest memory of its process."""

    has_passed: bool
    gigabytes: float


def run(portion: Portion) -> Outcome:
    """Runs the tests, and prints a line, skipped ones, or all output."""
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(portion.tests))
        file.flush()
        process = subprocess.Popen(
            [*_PYTEST, "-v", "-rfs", f"@{file.name}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    first, last = (name.partition("::")[0] for name in (portion.tests[0], portion.tests[-1]))
    files = first if first == last else f"{first} to {last}"
    summary = output.rstrip().rpartition("\n")[2].strip("= ")
    print(
        f"{portion.number}: {files}: {summary}, exit code {code}, "
        f"{usage.ru_maxrss / 1e6:.1f} GB, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    for line in output.splitlines():
        if code or line.startswith("SKIPPED"):
            print(line, flush=True)
    return Outcome(code == 0, usage.ru_maxrss / 1e6)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 1 where a test fails."""
    start = time.monotonic()
    names = collect(arguments)
    of_extras = [name for name in names if name.startswith("tests/extras/")]
    of_core = [name for name in names if not name.startswith("tests/extras/")]
    lists = [*divide(of_extras, _MOST_OF_EXTRAS), *divide(of_core, _MOST_OF_CORE)]
    portions = [Portion(*x) for x in enumerate(lists, 1)]
    print(f"{sum(len(x.tests) for x in portions)} slow tests in {len(portions)} portions")
    with ThreadPoolExecutor(int(os.environ.get("PYTEST_WORKERS", "2"))) as pool:
        outcomes = list(pool.map(run, portions))
    failed = [str(x.number) for x, y in zip(portions, outcomes, strict=True) if not y.has_passed]
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    print(
        f"{len(portions) - len(failed)} of {len(portions)} portions passed in {minutes} min "
        f"{seconds} s, each in at most {max((x.gigabytes for x in outcomes), default=0.0):.1f} GB"
    )
    if failed:
        print(f"slow tests failed in portions {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
