"""`bin/bench quality`: seconds on the clock until a language model is good.

The quickstart, and a plain GPT of as many parameters in PyTorch and in JAX (plain_gpt.py), learn
the same text, one after the other for every seed. The clock begins with the process: imports, data
and compilation count, evaluations do not. The bits per byte of the quickstart are those of a run of
the same seed with evaluations, which is trained before. Between two evaluations they are
interpolated.

Writes the results for `mtfrun table`, and prints the ratio of the times to the quickstart's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun.cli.parser import parse_flags
from mtfrun.data import TextData
from mtfrun.experiment.runs.opening import Settings
from mtfrun.experiment.runs.run_training import prepare
from mtfrun.extras.sweeps.result import RunResult
from mtfrun.rundir.run_summary import summary_of
from tests.bench.results import make_result, write_results

ROOT = pathlib.Path(__file__).parents[2]
TARGETS = (2.0, 1.8, 1.7)
QUESTION = "How soon is a language model good: seconds to 2.0, 1.8 and 1.7 bits per byte?"
_STEP = re.compile(r"^step (\d+)/\d+ ")
_RUN = ["--gin.EVAL_AT_START=False", "--gin.experiment.Evaluation.evaluators=[]"]

# Steps, the seconds until each, and the bits per byte there.
Curve = Sequence[tuple[int, float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench quality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gin_file", default="runs/quickstart.gin")
    parser.add_argument("--gin", action="append", default=[], help="a binding of the quickstart")
    parser.add_argument("--steps", type=int, default=4000, help="of the peers")
    parser.add_argument("--torch_rate", type=float, default=2e-3)
    parser.add_argument("--jax", help="the Python of an environment with JAX")
    parser.add_argument("--jax_rate", type=float, default=2e-3)
    parser.add_argument("--evaluate_every", type=int, default=250)
    parser.add_argument("--output", type=pathlib.Path, help="a new file of results, .jsonl")
    options = parser.parse_args()
    peers = {
        "PyTorch": [sys.executable, "-m", "tests.bench.torch_gpt", f"--rate={options.torch_rate}"]
    }
    if options.jax:
        peers["JAX"] = [options.jax, "-m", "tests.bench.jax_gpt", f"--rate={options.jax_rate}"]
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        text = directory / "text.npz"
        splits = split_texts(options.gin_file, directory / "text").values()
        train, validation = (np.frombuffer(x, np.uint8) for x in splits)
        np.savez(text, train=train, validation=validation)
        results = []
        for seed in range(options.seeds):
            results.append(_quickstart(directory / f"run{seed}", seed, options))
            _print(results[-1])
            for row, command in peers.items():
                flags = [f"--text={text}", f"--seed={seed}", f"--steps={options.steps}"]
                results.append(_peer(row, seed, [*command, *flags], options))
                _print(results[-1])
    _report(results)
    if options.output is not None:
        write_results(options.output, QUESTION, results, "seconds_to_1.8", "quickstart")


def split_texts(gin_file: str, directory: pathlib.Path) -> dict[str, bytes]:
    """Returns the bytes of the training and the validation split of a run's configuration."""
    command = ["train", f"--gin_file={gin_file}", f"--model_dir={directory}"]
    data = prepare(Settings.of_flags(parse_flags(command))).objects.experiment.data
    assert isinstance(data, TextData)
    return {split: data.text(split) for split in ("train", "validation")}


def _quickstart(directory: pathlib.Path, seed: int, options: argparse.Namespace) -> RunResult:
    command = [sys.executable, "-m", "mtfrun", "train", f"--gin_file={options.gin_file}", *_RUN]
    command += [f"--gin.{binding}" for binding in options.gin] + [f"--gin.SEED={seed}"]
    evaluated, timed = (
        directory.with_name(f"{directory.name}_{x}") for x in ("evaluated", "timed")
    )
    every = f"--gin.EVAL_EVERY={options.evaluate_every}"
    subprocess.run(
        [*command, every, f"--model_dir={evaluated}"], cwd=ROOT, check=True, capture_output=True
    )
    quality = {e.step: e.metrics["bits_per_byte"] for e in summary_of(evaluated, "").evaluations}
    seconds = {0: 0.0}
    start = time.time()
    never = f"--gin.EVAL_EVERY={max(quality)}"
    with subprocess.Popen(
        [*command, never, f"--model_dir={timed}"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if match := _STEP.match(line):
                seconds[int(match[1])] = time.time() - start
    assert process.returncode == 0 and max(seconds) == max(quality)
    times = np.interp(list(quality), list(seconds), list(seconds.values()))
    curve = list(zip(quality, times.tolist(), quality.values(), strict=True))
    status = summary_of(timed, "").status
    assert status is not None
    return _result("quickstart", seed, curve, status.cost.parameters)


def _peer(row: str, seed: int, command: Sequence[str], options: argparse.Namespace) -> RunResult:
    command = [*command, f"--evaluate_every={options.evaluate_every}", f"--start={time.time()}"]
    process = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    curve = [(line["step"], line["seconds"], line["bits_per_byte"]) for line in lines]
    (parameters,) = re.findall(r"^([\d,]+) parameters$", process.stderr, re.MULTILINE)
    return _result(row, seed, curve, int(parameters.replace(",", "")))


def _result(row: str, seed: int, curve: Curve, parameters: int | None) -> RunResult:
    _, seconds, last = curve[-1]
    metrics = {"bits_per_byte": last, **_seconds_to(curve)}
    return make_result(
        *(row, seed, metrics),
        step=curve[-1][0],
        evaluations={step: value for step, _, value in curve},
        parameters=parameters,
        seconds=round(seconds, 2),
    )


def _print(result: RunResult) -> None:
    print(json.dumps({"row": result.row, "seed": result.seed, **result.metrics}), flush=True)


def _seconds_to(curve: Curve) -> Mapping[str, float]:
    """Returns the seconds until each target, of those that are reached.

    >>> _seconds_to([(250, 10.0, 2.2), (500, 20.0, 1.9)])
    {'seconds_to_2.0': 16.67}
    """
    reached = {}
    for target in TARGETS:
        for (_, before, value), (_, seconds, next_value) in itertools.pairwise(curve):
            if next_value <= target:
                part = (value - target) / (value - next_value)
                reached[f"seconds_to_{target}"] = round(before + part * (seconds - before), 2)
                break
    return reached


def _report(results: Sequence[RunResult]) -> None:
    by_row = {row: [x for x in results if x.row == row] for row in {x.row: 0 for x in results}}
    for row, runs in by_row.items():
        for name in (f"seconds_to_{target}" for target in TARGETS):
            pairs = [
                (run.metrics[name], own.metrics[name])
                for run, own in zip(runs, by_row["quickstart"], strict=True)
                if name in run.metrics and name in own.metrics
            ]
            ratio = round(statistics.median(a / b for a, b in pairs), 2) if pairs else None
            print(json.dumps({"bench": "quality", "who": row, "metric": name, "ratio": ratio}))


if __name__ == "__main__":
    main()
