"""`bin/bench loop`: what the training loop costs besides its steps.

The small language model (gin/models/lm_small.gin, batches of 8 x 128 bytes) is trained by the loop
without any of its parts, with one of them, and with all: a checkpoint every 100 steps, a point of
the curves in TensorBoard every 50, the check for numbers that are not finite, and the progress line
every 50. Subjects run in alternation; a JSON line says by how much each is slower than the bare
loop, as a share of the step, in time and in CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics

from tests.bench.alternate import Result, Subject, alternate
from tests.bench.loop_worker import PARTS

BARE, ALL = "bare loop", "all"
# Of the time of a step, for all parts together.
GOAL = 0.02


def main() -> None:
    """Runs the comparison and prints a JSON line per subject."""
    parser = argparse.ArgumentParser(prog="bin/bench loop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--tiny", action="store_true", help="a model of milliseconds, as a try")
    options = parser.parse_args()
    common = [f"--steps={options.steps}", *(["--tiny"] if options.tiny else [])]
    module = "tests.bench.loop_worker"
    subjects = [
        Subject(BARE, module, common),
        *(Subject(part, module, [*common, f"--with={part}"]) for part in PARTS),
        Subject(ALL, module, [*common, *(f"--with={part}" for part in PARTS)]),
    ]
    # A subject's step is one request of the worker: as many steps of training.
    results = alternate(subjects, rounds=options.rounds, steps=1)
    for name, result in results.items():
        line = {
            "bench": "loop",
            "config": "tiny" if options.tiny else "small",
            "who": name,
            "metric": "ms of a step",
            "median": round(statistics.median(result["times_ms"]) / options.steps, 3),
            "runs": len(result["times_ms"]),
            "share": _share(result, results[BARE], "times_ms"),
            "cpu_share": _share(result, results[BARE], "cpu_ms"),
        }
        if name == ALL:
            line["goal"] = GOAL
        print(json.dumps(line), flush=True)


def _share(result: Result, bare: Result, times: str) -> float:
    """Returns the median over rounds of by how much a subject exceeds the bare loop."""
    pairs = zip(result[times], bare[times], strict=True)
    return round(statistics.median(subject / reference - 1 for subject, reference in pairs), 4)


if __name__ == "__main__":
    main()
