"""`bin/bench startup`: from the start of a process to the end of its first training step.

The model of runs/language_model.gin without gates, or the small one: hand-written TensorFlow, the
same step of mtfrun, and for the first also `mtfrun train` of that file, which reads gin files and
data, evaluates 32 batches before the first step, and writes its run directory. Every round starts
each of them in turn, in a new process that is killed after its first step; the first round is a
warm-up, which fills caches of data, bytecode and files.

Prints a JSON line per subject: seconds, CPU seconds of all its processors, which other programs on
the machine change less, and peak memory. Ratios are to hand-written TensorFlow.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from tests.bench.train import HANDWRITTEN, MTFRUN

COMMAND = "mtfrun train"
# What is printed after the first step: the worker's JSON line, the command's note.
_ENDS = ('{"first_step_s"', "compiled the training step")


@dataclasses.dataclass(frozen=True)
class Start:
    secs: float
    cpu_secs: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench startup", description=__doc__)
    parser.add_argument("--config", default="quickstart", choices=["quickstart", "small"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = ["--config", options.config]
    subjects = {"handwritten": [HANDWRITTEN, *config], "mtfrun": [MTFRUN, *config]}
    if options.config == "quickstart":
        subjects[COMMAND] = ["mtfrun", "train", "--gin_file=runs/language_model.gin"]
    starts: dict[str, list[Start]] = {name: [] for name in subjects}
    for number in range(options.rounds + 1):
        for name, words in subjects.items():
            with tempfile.TemporaryDirectory() as directory:
                run = [f"--model_dir={pathlib.Path(directory, 'run')}"] if name == COMMAND else []
                start = _start([*words, *run])
            if number:
                starts[name].append(start)
    for name in subjects:
        _report(options.config, name, starts[name], starts["handwritten"])


def _start(words: Sequence[str]) -> Start:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdin=subprocess.PIPE,  # a worker waits for requests
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(_ENDS):
            break
    else:
        raise RuntimeError(f"{words} ended before its first step:\n{''.join(lines)}")
    secs = time.perf_counter() - begin
    process.kill()
    _, process.returncode, usage = os.wait4(process.pid, 0)
    return Start(secs, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _report(config: str, name: str, starts: list[Start], references: list[Start]) -> None:
    pairs = list(zip(starts, references, strict=True))
    line = {
        "bench": "startup",
        "config": config,
        "who": name,
        "metric": "first_step_s",
        "median": round(statistics.median(x.secs for x in starts), 2),
        "min": round(min(x.secs for x in starts), 2),
        "runs": len(starts),
        "ratio_to": "handwritten",
        "ratio": round(statistics.median(x.secs / y.secs for x, y in pairs), 3),
        "cpu_s": round(statistics.median(x.cpu_secs for x in starts), 2),
        "cpu_ratio": round(statistics.median(x.cpu_secs / y.cpu_secs for x, y in pairs), 3),
        "peak_mb": round(max(x.peak_mb for x in starts)),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
