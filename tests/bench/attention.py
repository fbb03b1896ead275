"""`bin/bench attention`: attention in blocks against all weights at once, by length.

Causal self-attention of 8 heads (d_model 512, batch 1, float32) with the gradients of its variables
on one device. The length of the sequence is the configuration in the report. Where PyTorch can be
imported, its scaled_dot_product_attention is measured too; with more than 8,192 positions nothing
computes all weights at once, and the first blocks are the reference.

With --memory, instead, what the largest process takes for a training step where sequences are split
over several devices, a process each, measured and planned: a language model of 4 layers, Adafactor.
What remains of the compilation, which does not depend on the length, is measured apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from mtfrun.cli.launcher import Launcher, Output
from mtfrun.extras.plan.dtensor_programs import dump_environment
from tests.bench.alternate import Subject, add_rounds, compare

SUBJECT, TORCH = "tests.bench.mtfrun_attention", "tests.bench.torch_attention"
# Of more positions all weights of 8 heads, with what their gradients need, are above 10 GB.
LONGEST_AT_ONCE = 8192
MEMORY = "tests.bench.mtfrun_memory"
LAYOUT = "length:sequence;max_length:sequence"
_JOIN_SECS = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench attention", description=__doc__)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384]
    )
    parser.add_argument("--memory", action="store_true", help="of the longest, split over devices")
    parser.add_argument("--devices", type=int, default=4, help="of --memory")
    parser.add_argument("--blocks", type=int, nargs="+", default=[256, 512])
    add_rounds(parser, rounds=3, steps=2)
    options = parser.parse_args()
    if options.memory:
        longest = min(max(options.lengths), LONGEST_AT_ONCE)
        for block in (0, *options.blocks):
            sizes = [f"--length={longest}", f"--block={block}"]
            for line in compare_memory(options.devices, sizes):
                print(json.dumps(line), flush=True)
        return
    for length in options.lengths:
        size = f"--length={length}"
        subjects = [
            Subject(f"blocks of {block}", SUBJECT, [size, f"--block={block}"])
            for block in options.blocks
        ]
        if length <= LONGEST_AT_ONCE:
            subjects.insert(0, Subject("at once", SUBJECT, [size]))
        if importlib.util.find_spec("torch"):
            subjects.append(Subject("pytorch", TORCH, [size]))
        compare("attention", str(length), subjects, options, tokens=length)


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


def compare_memory(devices: int, options: Sequence[str]) -> list[dict[str, Any]]:
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
        flags = argparse.Namespace(
            num_processes=num_processes or devices,
            devices_per_process=None,
            max_restarts=0,
            launched=argparse.Namespace(model_dir=None),
        )
        launcher = Launcher(flags, command, Output(errors), program=[*python, "-m", MEMORY])
        if launcher.run():
            raise RuntimeError(errors.getvalue())
        values: list[dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))
    return values


if __name__ == "__main__":
    main()
