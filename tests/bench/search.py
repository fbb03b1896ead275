"""`bin/bench search`: whether the fastest layout is among the first that `plan --search` names.

Measures the devices of this machine with `mtfrun plan --calibrate`, searches with the profile, and
then trains a few steps of every candidate of the ranking, each in a process of its own, a group of
processes in alternation at a time. Prints a JSON line per candidate, in the order of the ranking,
and one with the verdict. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench.alternate import Subject, add_rounds, alternate

WORKER = "tests.bench.mtfrun_gin"
# Of the ranking, those that a user would try, and how near they have to come to the fastest.
FIRST, NEAR = 3, 1.1


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench search", description=__doc__)
    parser.add_argument("--gin_file", action="append", help="default: runs/quickstart.gin")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--profile", help="of these devices; default: measured first")
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--group", type=int, default=8, help="processes at a time")
    add_rounds(parser, rounds=3, steps=8)
    parser.add_argument("bindings", nargs="*", help="bindings of gin, NAME=value")
    options = parser.parse_args()
    gin = [f"--gin_file={name}" for name in options.gin_file or ["runs/quickstart.gin"]]
    bindings = [f"--gin_param={binding}" for binding in options.bindings]
    devices = f"--devices={options.devices}"
    with tempfile.TemporaryDirectory() as folder:
        profile = options.profile or str(pathlib.Path(folder) / "devices.json")
        if options.profile is None:
            _plan("--calibrate", devices, f"--profile={profile}")
        ranking = json.loads(
            _plan(
                *("--search", "--json", devices, f"--profile={profile}", *gin, *bindings),
                f"--candidates={options.candidates}",
            )
        )["ranking"]
    medians = []
    for number, (option, times) in enumerate(_timed(ranking, gin, options), 1):
        medians.append(statistics.median(times))
        line = {
            "bench": "search",
            "rank": number,
            "mesh": option["mesh"],
            "layout": option["layout"],
            "bindings": option["bindings"],
            "estimate_ms": round(1e3 * option["step_secs"], 2),
            "median_ms": round(medians[-1], 2),
            "min_ms": round(min(times), 2),
            "runs": len(times),
        }
        print(json.dumps(line), flush=True)
    print(json.dumps({"bench": "search", "gin_file": gin, **verdict(medians)}), flush=True)


def verdict(medians: Sequence[float]) -> dict[str, Any]:
    """Compares the fastest of the first of the ranking with the fastest of all."""
    fastest, first = min(medians), min(medians[:FIRST])
    return {
        "candidates": len(medians),
        "fastest_ms": round(fastest, 2),
        "fastest_rank": medians.index(fastest) + 1,
        f"best_of_first_{FIRST}_ms": round(first, 2),
        "ratio": round(first / fastest, 3),
        "is_near": first <= NEAR * fastest,
    }


def _timed(
    ranking: Sequence[dict[str, Any]], gin: Sequence[str], options: argparse.Namespace
) -> Iterator[tuple[dict[str, Any], list[float]]]:
    for start in range(0, len(ranking), options.group):
        group = ranking[start : start + options.group]
        subjects = [
            Subject(str(number), WORKER, [*gin, "--", *options.bindings, *option["bindings"]])
            for number, option in enumerate(group)
        ]
        results = alternate(subjects, rounds=options.rounds, steps=options.steps)
        for option, subject in zip(group, subjects, strict=True):
            yield option, results[subject.name]["times_ms"]


def _plan(*arguments: str) -> str:
    """Returns what `mtfrun plan` prints; its progress goes to standard error."""
    command = [sys.executable, "-m", "mtfrun", "plan", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
