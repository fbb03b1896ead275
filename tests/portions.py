"""Runs tests, a portion in a process: TensorFlow keeps all programs of a process.

    python -m tests.portions quick [ARGUMENT ...]    # the default suite; arguments of pytest that
                                                     # select no tests: all that it prints is shown
    python -m tests.portions slow [ARGUMENT ...]     # the slow tests; paths, -k

A portion of the default suite has whole files, whose tests share trained and compiled models. Of
the slow tests it has some of one file, or all of several small ones. PYTEST_WORKERS run at once
(default: 2), with one directory for caches and trained runs.
"""

from __future__ import annotations

import gc
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.reach import ROOT, tests_and_examples

# How many portions of the default suite need TensorFlow. The others are small and come last, when
# one process has ended and the other has not.
_WITH_TENSORFLOW, _PLAIN = 10, 4
# Of imported language models 50 tests took 6.5 GB, of the core 30 at most 2.2.
_MOST_OF_EXTRAS, _MOST_OF_CORE = 30, 60
_PYTEST = [str(pathlib.Path(sys.executable).with_name("pytest")), "-q"]
_OF_SLOW_ONES = ["-m", "slow"]
# After 28 minutes the tests are interrupted, which prints the failures so far, and then killed.
_WITH_LIMIT = ["timeout", "--foreground", "--signal=INT", "--kill-after=60s", "28m"]


class Portion(NamedTuple):
    """Tests by name or file, other arguments of pytest, and variables of its environment."""

    tests: Sequence[str]
    arguments: Sequence[str]
    environment: Mapping[str, str] = {}


def quick_portions(arguments: Sequence[str]) -> Iterator[Portion]:
    """Yields the portions of the default suite."""
    gc.disable()  # syntax trees are many objects, which all remain
    files: dict[bool, list[pathlib.Path]] = {True: [], False: []}
    for path, needs_tensorflow in tests_and_examples():
        files[needs_tensorflow].append(path.relative_to(ROOT))
    # The examples of modules, which come first in the list, take least.
    for paths in reversed(divide_files(files[True], _WITH_TENSORFLOW)):
        yield Portion(paths, arguments)
    for paths in divide_files(files[False], _PLAIN):
        yield Portion(paths, arguments, {"MTFRUN_TESTS_WITHOUT_TENSORFLOW": "1"})


def divide_files(paths: Sequence[pathlib.Path], count: int) -> list[list[str]]:
    """Returns so many lists of neighbouring files, which have about the same size in bytes."""
    sizes = [(ROOT / path).stat().st_size for path in paths]
    lists: list[list[str]] = [[] for _ in range(count)]
    for path, before in zip(paths, itertools.accumulate(sizes, initial=0), strict=False):
        lists[before * count // sum(sizes)].append(str(path))
    return [names for names in lists if names]


def slow_portions(arguments: Sequence[str]) -> Iterator[Portion]:
    """Yields the portions of the slow tests; ends the program where pytest finds a mistake."""
    process = subprocess.run(
        [*_PYTEST, *_OF_SLOW_ONES, "--collect-only", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.stderr.write(process.stdout + process.stderr)
        sys.exit(process.returncode)
    names = [line for line in process.stdout.splitlines() if "::" in line]
    of_extras = [name for name in names if name.startswith("tests/extras/")]
    of_core = [name for name in names if not name.startswith("tests/extras/")]
    for tests in [*divide(of_extras, _MOST_OF_EXTRAS), *divide(of_core, _MOST_OF_CORE)]:
        yield Portion(tests, [*_OF_SLOW_ONES, "-v"])


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


def run(number: int, portion: Portion, directory: str, *, prints_all: bool) -> Outcome:
    """Runs the tests, and prints a line, and skipped ones or all output."""
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(portion.tests))
        file.flush()
        process = subprocess.Popen(
            [*_WITH_LIMIT, *_PYTEST, *portion.arguments, "-rfs", f"@{file.name}"],
            env={**os.environ, **portion.environment, "MTFRUN_TESTS_DIR": directory},
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
    lines = [
        f"{number}: {files}: {summary}, exit code {code}, {usage.ru_maxrss / 1e6:.1f} GB, "
        f"{time.monotonic() - start:.0f} s"
    ]
    shows_all = code or prints_all
    lines += [x for x in output.splitlines() if shows_all or x.startswith("SKIPPED")]
    print("\n".join(lines), flush=True)
    return Outcome(code == 0, usage.ru_maxrss / 1e6)


def main(kind: str, *arguments: str) -> int:
    """Returns the exit code: 1 where a test fails."""
    start = time.monotonic()
    is_slow = kind == "slow"
    portions = list((slow_portions if is_slow else quick_portions)(arguments))
    with (
        tempfile.TemporaryDirectory(prefix="mtfrun-tests-") as directory,
        ThreadPoolExecutor(int(os.environ.get("PYTEST_WORKERS", "2"))) as pool,
    ):
        prints_all = bool(arguments) and not is_slow
        futures = [
            pool.submit(run, number, portion, directory, prints_all=prints_all)
            for number, portion in enumerate(portions, 1)
        ]
        outcomes = [future.result() for future in futures]
    failed = [str(number) for number, x in enumerate(outcomes, 1) if not x.has_passed]
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    print(
        f"{kind} tests: {len(portions) - len(failed)} of {len(portions)} portions passed in "
        f"{minutes} min {seconds} s, each in at most "
        f"{max((x.gigabytes for x in outcomes), default=0.0):.1f} GB"
    )
    if failed:
        print(f"{kind} tests failed in portions {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
