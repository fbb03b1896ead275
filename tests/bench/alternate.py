"""Comparing subjects side by side: A B A B, in the same minutes on the same machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Subject:
    """A module of tests.bench that serves steps, with its arguments, under a name."""

    name: str
    module: str
    arguments: Sequence[str] = ()


def alternate(subjects: Sequence[Subject], *, rounds: int, steps: int) -> dict[str, dict]:
    """Returns per subject its times in ms, the medians of its rounds, peak memory, first step.

    Every round gives each subject in turn `steps` steps; the first round warms up and is dropped.
    """
    results: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        processes = {subject.name: stack.enter_context(_start(subject)) for subject in subjects}
        for name, process in processes.items():
            results[name] = {**_read(process), "times_ms": [], "round_medians_ms": []}
        for turn in range(rounds + 1):
            for name, process in processes.items():
                assert process.stdin is not None
                process.stdin.write(f"{steps}\n")
                process.stdin.flush()
                answer = _read(process)
                results[name]["peak_mb"] = answer["peak_mb"]
                if turn:
                    results[name]["times_ms"] += answer["times_ms"]
                    results[name]["round_medians_ms"].append(statistics.median(answer["times_ms"]))
    return results


def report(
    bench: str,
    config: str,
    results: dict[str, dict],
    reference: str,
    *,
    names: Sequence[str] | None = None,
    **extra,
) -> None:
    """Prints a JSON line per subject, or per one of `names`; the ratio is the median over rounds of
    pairwise ratios."""
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
def _start(subject: Subject):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", subject.module, *subject.arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _read(process: subprocess.Popen) -> dict:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{' '.join(process.args)} ended with {process.wait()}")
    return json.loads(line)
