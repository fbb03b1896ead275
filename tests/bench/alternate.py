"""Measures subjects in alternation, A B A B, at the same time on the same machine."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
# A line of `mtfrun train`, which prints one every LOG_EVERY steps.
OWN_STEP = re.compile(r"^step (\d+)/\d+ ")
FIRST_STEP = 100

# What was measured of a subject, by name.
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A module of tests.bench that serves steps, run as a program."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    directory: pathlib.Path | None = None  # another checkout


def add_rounds(parser: argparse.ArgumentParser, rounds: int = 5, steps: int = 6) -> None:
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--steps", type=int, default=steps, help="steps of a subject in a round")


def compare(
    bench: str, config: str, subjects: Sequence[Subject], options: argparse.Namespace, **extra: int
) -> None:
    """Measures subjects and prints a JSON line of each, with the ratio to the first."""
    results = alternate(subjects, rounds=options.rounds, steps=options.steps)
    report(bench, config, results, subjects[0].name, names=None, **extra)


def alternate(subjects: Sequence[Subject], *, rounds: int, steps: int) -> dict[str, Result]:
    """Returns the results by subject: `times_ms` by the clock, `cpu_ms` of all processors, ...

    In every round each subject in turn runs `steps` steps; the first round is a warm-up.
    """
    results: dict[str, Result] = {}
    with contextlib.ExitStack() as stack:
        processes = {subject.name: stack.enter_context(_start(subject)) for subject in subjects}
        for name, process in processes.items():
            results[name] = {**_read(process), "times_ms": [], "cpu_ms": [], "round_medians_ms": []}
        for number in range(rounds + 1):
            for name, process in processes.items():
                assert process.stdin is not None
                process.stdin.write(f"{steps}\n")
                process.stdin.flush()
                answer = _read(process)
                results[name]["peak_mb"] = answer["peak_mb"]
                if number:
                    results[name]["times_ms"] += answer["times_ms"]
                    # Workers of other checkouts may be older.
                    results[name]["cpu_ms"] += answer.get("cpu_ms", [])
                    results[name]["round_medians_ms"].append(statistics.median(answer["times_ms"]))
    return results


def report(
    bench: str,
    config: str,
    results: dict[str, Result],
    reference: str,
    *,
    names: Sequence[str] | None = None,
    **extra: int,
) -> None:
    """Prints a JSON line per subject; ratios are medians over the ratios of rounds' medians."""
    for name in results if names is None else names:
        result = results[name]
        pairs = zip(result["round_medians_ms"], results[reference]["round_medians_ms"], strict=True)
        line = {
            "bench": bench,
            "config": config,
            "who": name,
            "metric": "step_ms",
            "median": round(statistics.median(result["times_ms"]), 2),
            "min": round(min(result["times_ms"]), 2),
            "runs": len(result["times_ms"]),
            "ratio_to": reference,
            "ratio": round(statistics.median(a / b for a, b in pairs), 3),
            "first_step_s": round(result["first_step_s"], 2),
            "compile_s": round(result["compile_s"], 2),
            "first_loss": result["first_loss"],
            "peak_mb": round(result["peak_mb"]),
            **extra,
        }
        for unit in ("tokens", "images"):
            if unit in extra:
                line[f"{unit}_per_s"] = round(extra[unit] / line["median"] * 1e3)
        print(json.dumps(line), flush=True)


@contextlib.contextmanager
def _start(subject: Subject) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", subject.module, *subject.arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=subject.directory,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _read(process: subprocess.Popen[str]) -> Result:
    """Returns the next JSON line of a subject's program."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
    return json.loads(line)


def time_steps(
    command: Sequence[str], step_pattern: re.Pattern[str], last_step: int
) -> tuple[float, float]:
    """Returns the seconds until step 100 of a program, and those of each later step.

    The program prints a line with the number of the step every 100 steps; it ends after the line of
    `last_step`, which is a multiple of 100.
    """
    seconds = dict[int, float]()
    start = time.time()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := step_pattern.match(line):
                seconds[int(match[1])] = time.time() - start
                if int(match[1]) >= last_step:
                    break
        process.kill()
    until_first = seconds[FIRST_STEP]
    return until_first, (seconds[last_step] - until_first) / (last_step - FIRST_STEP)
