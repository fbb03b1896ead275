"""`bin/bench quality`: seconds on the clock until a language model is good.

The quickstart, and a plain GPT of as many parameters in PyTorch and in JAX (plain_gpt.py), learn
the same text. First every row is trained with every seed, for the bits per byte by step: this may
take hours beside other work, and --directory keeps what is finished. Then, on a quiet machine, the
rows take some hundred steps in alternation, for the seconds by step. The clock begins with the
process: imports, data and compilation count, evaluations do not.

Writes the results for `mtfrun table`, and prints the ratio of the times to the quickstart's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun.cli.parser import parse_flags
from mtfrun.data import TextData
from mtfrun.experiment.runs.opening import Settings
from mtfrun.experiment.runs.run_training import prepare
from mtfrun.extras.sweeps.result import RunResult
from mtfrun.rundir.run_summary import summary_of
from tests.bench.alternate import FIRST_STEP, OWN_STEP, time_steps
from tests.bench.results import make_result, write_results

ROOT = pathlib.Path(__file__).parents[2]
TARGETS = (2.0, 1.8, 1.7)
QUESTION = "How soon is a language model good: seconds to 2.0, 1.8 and 1.7 bits per byte?"
_RUN = ["--gin.EVAL_AT_START=False", "--gin.experiment.Evaluation.evaluators=[]"]

TIMED_STEPS = 400
NEVER = 1_000_000  # steps between two evaluations

# Steps, and the bits per byte after each.
Quality = Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Row:
    """A program that trains; it prints a line for every hundredth step.

    Attributes:
      flags: further flags, with the fields {seed}, {directory} and {every}.
      every: the steps between two evaluations.
    """

    name: str
    command: Sequence[str]
    flags: Sequence[str]
    step_pattern: re.Pattern[str]
    every: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench quality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gin_file", default="runs/quickstart.gin")
    parser.add_argument("--gin", action="append", default=[], help="a binding of the quickstart")
    parser.add_argument("--steps", type=int, default=8000, help="of the peers")
    text = "another length of PyTorch's training; repeatable"
    parser.add_argument("--also_steps", type=int, action="append", default=[], help=text)
    parser.add_argument("--torch_rate", type=float, default=4e-3)
    parser.add_argument("--jax", help="the Python of an environment with JAX")
    parser.add_argument("--jax_rate", type=float, default=4e-3)
    parser.add_argument("--directory", type=pathlib.Path, help="of trainings, to go on with later")
    parser.add_argument("--output", type=pathlib.Path, help="a new file of results, .jsonl")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = options.directory
        if directory is None:
            directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        text = directory / "text.npz"
        splits = split_texts(options.gin_file, directory / "text").values()
        train, validation = (np.frombuffer(x, np.uint8) for x in splits)
        np.savez(text, train=train, validation=validation)
        rows = _rows(options, text)
        trainings = list(itertools.product(range(options.seeds), rows))
        learned = [_learn(row, seed, directory) for seed, row in trainings]
        results = []
        for (seed, row), (quality, parameters) in zip(trainings, learned, strict=True):
            run = directory / f"timed_{row.name}_{seed}"
            shutil.rmtree(run, ignore_errors=True)
            command = _command(row, seed, run, NEVER)
            seconds = time_steps(command, row.step_pattern, TIMED_STEPS)
            results.append(_result(row.name, seed, quality, seconds, parameters))
            print(json.dumps({"row": row.name, "seed": seed, **results[-1].metrics}), flush=True)
    _report(results)
    if options.output is not None:
        write_results(options.output, QUESTION, results, "seconds_to_1.8", "quickstart")


def _rows(options: argparse.Namespace, text: pathlib.Path) -> list[Row]:
    own = [sys.executable, "-m", "mtfrun", "train", f"--gin_file={options.gin_file}", *_RUN]
    own += [f"--gin.{binding}" for binding in options.gin]
    flags = ["--gin.SEED={seed}", "--gin.EVAL_EVERY={every}", "--model_dir={directory}"]
    rows = [Row("quickstart", own, flags, OWN_STEP, 250)]
    torch = (sys.executable, "torch", options.torch_rate)
    peers = {"PyTorch": (*torch, options.steps)}
    peers |= {f"PyTorch, {steps:,} steps": (*torch, steps) for steps in options.also_steps}
    if options.jax:
        peers["JAX"] = (options.jax, "jax", options.jax_rate, options.steps)
    flags = ["--seed={seed}", "--evaluate_every={every}"]
    for name, (python, module, rate, steps) in peers.items():
        command = [python, "-m", f"tests.bench.{module}_gpt", f"--rate={rate}", f"--text={text}"]
        command.append(f"--steps={steps}")
        rows.append(Row(name, command, flags, re.compile(r'^{"step": (\d+)'), 500))
    return rows


def split_texts(gin_file: str, directory: pathlib.Path) -> dict[str, bytes]:
    """Returns the bytes of the training and the validation split of a run's configuration."""
    command = ["train", f"--gin_file={gin_file}", f"--model_dir={directory}"]
    data = prepare(Settings.of_flags(parse_flags(command))).objects.experiment.data
    assert isinstance(data, TextData)
    return {split: data.text(split) for split in ("train", "validation")}


def _learn(row: Row, seed: int, directory: pathlib.Path) -> tuple[Quality, int]:
    """Returns the quality by step and the number of parameters; a finished training is read."""
    path = directory / f"{row.name}_{seed}.json"
    if not path.exists():
        run = directory / f"{row.name}_{seed}"
        command = _command(row, seed, run, row.every)
        process = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        if run.exists():
            summary = summary_of(run, "")
            assert summary.status is not None
            quality = {e.step: e.metrics["bits_per_byte"] for e in summary.evaluations}
            parameters = summary.status.cost.parameters
        else:
            lines = [json.loads(line) for line in process.stdout.splitlines()]
            quality = {x["step"]: x["bits_per_byte"] for x in lines if "bits_per_byte" in x}
            (number,) = re.findall(r"^([\d,]+) parameters$", process.stderr, re.MULTILINE)
            parameters = int(number.replace(",", ""))
        path.write_text(json.dumps({"quality": quality, "parameters": parameters}))
        print(json.dumps({"row": row.name, "seed": seed, "quality": quality}), flush=True)
    learned = json.loads(path.read_text())
    return {int(step): x for step, x in learned["quality"].items()}, learned["parameters"]


def _command(row: Row, seed: int, directory: pathlib.Path, every: int) -> list[str]:
    fields = {"seed": seed, "directory": directory, "every": every}
    return [*row.command, *(flag.format(**fields) for flag in row.flags)]


def _result(
    row: str, seed: int, quality: Quality, seconds: tuple[float, float], parameters: int
) -> RunResult:
    until_first, a_step = seconds
    curve = [
        (step, until_first + (step - FIRST_STEP) * a_step, value) for step, value in quality.items()
    ]
    metrics: dict[str, float] = {
        "bits_per_byte": curve[-1][2],
        "milliseconds_a_step": round(1000 * a_step, 2),
    }
    return make_result(
        *(row, seed, {**metrics, **_seconds_to(curve)}),
        step=curve[-1][0],
        evaluations=quality,
        parameters=parameters,
        seconds=round(curve[-1][1], 2),
    )


def _seconds_to(curve: Sequence[tuple[int, float, float]]) -> Mapping[str, float]:
    """Returns the seconds until each target that is reached, of steps, seconds and bits per byte.

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
