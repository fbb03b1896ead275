"""`bin/bench loop`: what the training loop costs besides its steps.

A language model is trained on batches of 8 x 128 bytes, with a checkpoint every 100 steps, a point
of the curves in TensorBoard every 50, the check for numbers that are not finite, the ledger with
digests of all variables at every checkpoint, and the progress line every 50.

Prints a JSON line for each of these parts, and for all: the share of the time that passes in its
functions. `cpu_share_beside` is the share of the processors' time in the thread that writes a
checkpoint beside the next steps.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import itertools
import json
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from mtfrun import training
from mtfrun.checkpoints.save import Save
from mtfrun.cli.parser import parse_flags
from mtfrun.data.rows import infeed
from mtfrun.experiment.runs.opening import Settings
from mtfrun.experiment.runs.run_training import prepare, run_training
from mtfrun.experiment.training import TrainChoices
from mtfrun.extras.audit.ledger_hook import Ledger
from mtfrun.metrics.event_files import Summaries
from mtfrun.rundir import RunDirectory
from mtfrun.training import log
from mtfrun.training.hooks.finite import FiniteGuard
from mtfrun.training.hooks.saving import Saver
from mtfrun.training.log import Progress

ALL, BESIDE = "all", "beside"
# Of the time of a step, for all parts together.
GOAL = 0.02

# Parts of the loop, and what they consist of.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "checkpoints": [(Saver, "__call__")],
    "summaries": [(log, "write_metrics"), (Summaries, "text"), (Summaries, "flush")],
    "finite check": [(FiniteGuard, "check_steps"), (FiniteGuard, "check_variables")],
    "ledger": [(Ledger, "after_steps"), (Ledger, "before_save"), (infeed, "digest_of_rows")],
    "progress line": [(Progress, "line"), (Progress, "advance"), (Progress, "note")],
}
_WORDS = 5000
_SMALL = ["--gin_file=defaults.gin", "--gin_file=models/lm_small.gin"]
CONFIGS = {
    "small": _SMALL,
    "quickstart": ["--gin_file=runs/quickstart.gin", "--gin.ITERATIONS_PER_LOOP=50"],
    # Steps of milliseconds, to try the benchmark.
    "tiny": [*_SMALL, *(f"--gin.{name}=16" for name in ("D_MODEL", "D_FF", "D_KV"))],
}


class Marks(training.Action):
    """Notes the times at every so many steps, and the seconds that were spent in the parts."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps: int = every_steps
        self.secs: dict[str, float] = collections.defaultdict(float)
        self.marks: list[dict[str, float]] = []
        self._threads: set[int] = set()  # those that are in a part

    def __call__(self, context: training.ActionContext) -> None:
        now = {"wall": time.perf_counter(), "cpu": time.process_time()}
        self.marks.append({**now, **self.secs})

    def timed(
        self, function: Callable[..., Any], part: str, clock: Callable[[], float]
    ) -> Callable[..., Any]:
        """Returns the function, whose time counts for a part, unless a part has called it."""

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            thread = threading.get_ident()
            if thread in self._threads:
                return function(*arguments, **options)
            self._threads.add(thread)
            start = clock()
            try:
                return function(*arguments, **options)
            finally:
                self.secs[part] += clock() - start
                self._threads.remove(thread)

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench loop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--config", choices=CONFIGS, default="small")
    options = parser.parse_args()
    # The end of an asynchronous save belongs to the steps after it: checkpoints are in the middle.
    marks = Marks(options.steps // 2)
    for part, places in PARTS.items():
        for owner, name in places:
            setattr(owner, name, marks.timed(getattr(owner, name), part, time.perf_counter))
    setattr(Save, "_run", marks.timed(Save._run, BESIDE, time.thread_time))  # noqa: B010 - mypy
    _train(marks, CONFIGS[options.config], options)
    ends = marks.marks[2::2]  # the first steps are a warm-up
    rounds = [
        {name: end.get(name, 0.0) - begin.get(name, 0.0) for name in end}
        for begin, end in itertools.pairwise(ends)
    ]
    for name in (*PARTS, ALL):
        parts = PARTS if name == ALL else (name,)
        shares = [sum(r.get(part, 0.0) for part in parts) / r["wall"] for r in rounds]
        line = {
            "bench": "loop",
            "config": options.config,
            "who": name,
            "metric": "share of the time",
            "median": round(statistics.median(shares), 5),
            "runs": len(shares),
        }
        if name == ALL:
            steps_ms = [1e3 * r["wall"] / options.steps for r in rounds]
            beside = statistics.median(r.get(BESIDE, 0.0) / r["cpu"] for r in rounds)
            line |= {"step_ms": round(statistics.median(steps_ms), 3), "goal": GOAL}
            line["cpu_share_beside"] = round(beside, 5)
        print(json.dumps(line), flush=True)


def _train(marks: Marks, model: list[str], options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="mtfrun-loop-") as name:
        directory = pathlib.Path(name)
        command = [
            *("train", *model, "--gin_file=data/text_files.gin"),
            f"--gin.TEXT_FILES={write_texts(directory)}",
            *("--gin.BATCH_SIZE=8", "--gin.SEQUENCE_LENGTH=128", "--gin.LOG_EVERY=50"),
            f"--gin.TRAIN_STEPS={options.steps * (options.rounds + 2)}",
            f"--gin.CHECKPOINT_EVERY={options.steps}",
            *("--gin.CheckpointOptions.every_secs=None", "--gin.EVAL_EVERY=None"),
            f"--model_dir={directory / 'run'}",
        ]
        preparation = prepare(Settings.of_flags(parse_flags(command)))
        preparation.training.actions = [marks]
        with contextlib.redirect_stdout(sys.stderr):
            run_training(preparation, RunDirectory(directory / "run"), command, TrainChoices())


def write_texts(directory: pathlib.Path) -> dict[str, str]:
    """Writes random words and returns the files by split."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(_WORDS)]
    texts = {split: str(directory / f"{split}.txt") for split in ("train", "validation")}
    for path in texts.values():
        lines = (" ".join(rng.choices(words, k=12)) for _ in range(_WORDS))
        pathlib.Path(path).write_text("\n".join(lines))
    return texts


if __name__ == "__main__":
    main()
