"""`bin/bench attention --memory`: what a device needs where sequences are split over devices.

A training step of a language model (4 layers, d_model 512, 8 heads, Adafactor, batch 1, float32) on
one device and on several, a process each: what the largest process takes for the step, measured and
planned. What remains of the compilation, which does not depend on the length, is measured apart.
"""

from __future__ import annotations

import io
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from mtfrun.cli.launch.children import Output
from mtfrun.cli.launch.launcher import Launch, Launcher
from mtfrun.extras.plan.command import dump_environment

SUBJECT = "tests.bench.mtfrun_memory"
LAYOUT = "length:sequence;max_length:sequence"
_JOIN_SECS = 120.0


def measured(devices: int, options: Sequence[str]) -> list[dict[str, Any]]:
    """Returns what each of so many processes, with one device each, has measured."""
    return _run("measure", devices, [sys.executable], options)


def planned(devices: int, options: Sequence[str]) -> dict[str, Any]:
    """Returns what a device needs by the program of a step, which one process compiles."""
    with tempfile.TemporaryDirectory() as folder:
        variables = [f"{name}={value}" for name, value in dump_environment(folder).items()]
        python = ["env", *variables, sys.executable]
        # One process: the mesh need not exist.
        (result,) = _run("plan", devices, python, [f"--programs={folder}", *options], 1)
    return result


def compare(devices: int, options: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the report's lines: one device, then several with their ratio to it."""
    lines: list[dict[str, Any]] = []
    for number in (1, devices):
        of_processes = measured(number, options)
        largest = max(of_processes, key=lambda result: float(result["total_mb"]))
        plan = planned(number, options)
        line = {"bench": "attention memory", "options": list(options), "devices": number, **largest}
        line |= {f"planned_{name}": value for name, value in plan.items()}
        for name in ("tensors_mb", "total_mb", "planned_total_mb"):
            line[f"{name}_ratio"] = round(line[name] / (lines[0] if lines else line)[name], 3)
        lines.append(line)
    return lines


def _run(
    what: str,
    devices: int,
    python: Sequence[str],
    options: Sequence[str],
    num_processes: int | None = None,
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "result.json"
        command = [what, f"--mesh=sequence:{devices}", f"--layout={LAYOUT}", f"--result={result}"]
        command += [f"--join_secs={_JOIN_SECS:g}", *options]
        errors = io.StringIO()
        launch = Launch([*python, "-m", SUBJECT], command, num_processes or devices)
        if Launcher(launch, Output(errors)).run():
            raise RuntimeError(errors.getvalue())
        values: list[dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))
    return values
