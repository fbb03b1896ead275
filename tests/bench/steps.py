"""`bin/bench steps`: the quiet time of a step of every row of a sweep.

The rows train for some hundred steps in alternation, each in its own process; the first hundred,
with compilation, do not count. Long runs of a sweep may then share a machine with other work: a
curve over seconds takes the bits per byte from them, and the milliseconds from here.

Writes the results for `mtfrun table`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile

from mtfrun.extras.sweeps.sweep_file import read_sweep_file
from tests.bench.alternate import OWN_STEP, time_steps
from tests.bench.results import make_result, write_results

METRIC = "milliseconds_a_step"
_REPORT = ["--gin.LOG_EVERY=100", "--gin.ITERATIONS_PER_LOOP=100", "--gin.EVAL_AT_START=False"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench steps", description=__doc__)
    parser.add_argument("--sweep_file", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--last_step", type=int, default=300, help="a multiple of 100")
    parser.add_argument("--output", type=pathlib.Path, help="a new file of results, .jsonl")
    options = parser.parse_args()
    sweep = read_sweep_file(options.sweep_file, []).without_search()
    first_runs = {run.row: run for run in reversed(sweep.runs())}
    runs = [first_runs[row] for row in dict.fromkeys(run.row for run in sweep.runs())]
    results = []
    for repeat in range(options.repeats):
        for run in runs:
            files, bindings = sweep.settings(run)
            flags = [f"--gin_file={file}" for file in files]
            flags += [f"--gin.{name}={text}" for name, text in bindings.items()]
            with tempfile.TemporaryDirectory() as directory:
                command = [sys.executable, "-m", "mtfrun", "train", *flags, *_REPORT]
                command.append(f"--model_dir={directory}")
                _, seconds = time_steps(command, OWN_STEP, options.last_step)
            results.append(make_result(run.row, repeat, {METRIC: round(1000 * seconds, 2)}))
            print(json.dumps({"row": run.row, **results[-1].metrics}), flush=True)
    if options.output is not None:
        question = "How long does a step of each row take on a quiet machine?"
        write_results(options.output, question, results, METRIC, sweep.baseline)


if __name__ == "__main__":
    main()
