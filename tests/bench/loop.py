"""`bin/bench loop`: what the training loop costs besides its steps.

A language model is trained on batches of 8 x 128 bytes by the loop without any of its parts, with
one of them, and with all: a checkpoint every 100 steps, a point of the curves in TensorBoard every
50, the check for numbers that are not finite, the ledger with digests of all variables at every
checkpoint, and the progress line every 50. One process trains,
and has other parts after every so many steps, so that all subjects have the same program and the
same memory; their order changes from round to round.

A JSON line per subject says by how much it is slower than the bare loop, as a share of the step, in
time and in CPU time; and, since steps differ by some percent, also directly which share of the time
passes in the functions of its parts, and which share of the processors' time in the thread that
writes a checkpoint beside the next steps.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import queue
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from mtfrun import training
from mtfrun.checkpoints.save import Save
from mtfrun.cli.command import settings_of
from mtfrun.cli.parser import parse_flags
from mtfrun.data.rows import infeed
from mtfrun.experiment.runs.run_training import prepare, run_training
from mtfrun.experiment.training import TrainChoices
from mtfrun.extras.audit.ledger_hook import Ledger
from mtfrun.metrics.event_files import Summaries
from mtfrun.rundir import RunDirectory
from mtfrun.training import log
from mtfrun.training.hooks.finite import FiniteGuard
from mtfrun.training.hooks.progress import Progress
from mtfrun.training.hooks.saving import Saver

BARE, ALL = "bare loop", "all"
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
_FUNCTIONS = {
    (owner, name): getattr(owner, name) for places in PARTS.values() for owner, name in places
}
SUBJECTS: dict[str, Collection[str]] = {BARE: (), **{part: (part,) for part in PARTS}, ALL: PARTS}
_WORDS = 5000
_SMALL = ["--gin_file=defaults.gin", "--gin_file=models/lm_small.gin"]
CONFIGS = {
    "small": _SMALL,
    "quickstart": ["--gin_file=runs/quickstart.gin", "--gin.ITERATIONS_PER_LOOP=50"],
    # Steps of milliseconds, to try the benchmark.
    "tiny": [*_SMALL, *(f"--gin.{name}=16" for name in ("D_MODEL", "D_FF", "D_KV"))],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench loop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--config", choices=CONFIGS, default="small")
    options = parser.parse_args()
    wall: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    cpu: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    inside: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    beside: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    parts, saves = Stopwatch(time.perf_counter), Stopwatch(time.thread_time)
    setattr(Save, "_run", saves.timed(Save._run))  # noqa: B010 - mypy refuses an assignment
    # The end of an asynchronous save belongs to the steps after it: checkpoints are in the middle.
    half = _start(options.steps // 2, CONFIGS[options.config])
    half.next()
    order = list(SUBJECTS)
    for number in range(options.rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            _use(SUBJECTS[name], parts)
            begin, cpu_begin = time.perf_counter(), time.process_time()
            parts.secs = saves.secs = 0.0
            half.next()
            half.next()
            if number:  # the first round is a warm-up
                wall[name].append(time.perf_counter() - begin)
                cpu[name].append(time.process_time() - cpu_begin)
                inside[name].append(parts.secs / wall[name][-1])
                beside[name].append(saves.secs / cpu[name][-1])
    for name in SUBJECTS:
        line = {
            "bench": "loop",
            "config": options.config,
            "who": name,
            "metric": "ms of a step",
            "median": round(1e3 * statistics.median(wall[name]) / options.steps, 3),
            "runs": len(wall[name]),
            "share": _share(wall[name], wall[BARE]),
            "cpu_share": _share(cpu[name], cpu[BARE]),
            "share_in_parts": round(statistics.median(inside[name]), 5),
            "cpu_share_beside": round(statistics.median(beside[name]), 5),
        }
        if name == ALL:
            line["goal"] = GOAL
        print(json.dumps(line), flush=True)


def _share(times: list[float], bare: list[float]) -> float:
    """Returns the median over rounds of by how much a subject exceeds the bare loop."""
    pairs = zip(times, bare, strict=True)
    return round(statistics.median(subject / reference - 1 for subject, reference in pairs), 4)


class Stopwatch:
    """`secs` that a thread has spent in some functions, of which one may call another."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.secs = 0.0
        self._clock = clock
        self._is_running = False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._is_running:
                return function(*arguments, **options)
            self._is_running, start = True, self._clock()
            try:
                return function(*arguments, **options)
            finally:
                self.secs += self._clock() - start
                self._is_running = False

        return timed


class Gate(training.Action):
    """Stops the loop after every `every_steps` steps, until `next` is called."""

    def __init__(self, every_steps: int):
        self.every_steps = every_steps
        self._arrived: queue.Queue[None] = queue.Queue()
        self._opened: queue.Queue[None] = queue.Queue()
        self._is_closed = False

    def __call__(self, context: training.ActionContext) -> None:
        self._arrived.put(None)
        self._opened.get()

    def next(self) -> None:
        if self._is_closed:
            self._opened.put(None)
        self._is_closed = True
        self._arrived.get()


def _start(every_steps: int, model: Sequence[str]) -> Gate:
    """Starts the loop in a thread."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mtfrun-loop-"))
    gate = Gate(every_steps)
    command = [
        "train",
        *model,
        "--gin_file=data/text_files.gin",
        f"--gin.TEXT_FILES={write_texts(directory)}",
        *("--gin.BATCH_SIZE=8", "--gin.SEQUENCE_LENGTH=128", "--gin.TRAIN_STEPS=1000000"),
        f"--gin.CHECKPOINT_EVERY={2 * every_steps}",
        *("--gin.CheckpointOptions.every_secs=None", "--gin.EVAL_EVERY=None"),
        *("--gin.LOG_EVERY=50", f"--model_dir={directory / 'run'}"),
    ]
    preparation = prepare(settings_of(parse_flags(command)))
    # After the parts, so that a request ends with them.
    preparation.training.actions = [gate]

    def train() -> None:
        run_training(preparation, RunDirectory(directory / "run"), command, TrainChoices())

    threading.Thread(target=train, daemon=True).start()
    return gate


def _use(parts: Collection[str], stopwatch: Stopwatch) -> None:
    """Gives the loop these parts, and no others."""
    for part, places in PARTS.items():
        for owner, name in places:
            function = stopwatch.timed(_FUNCTIONS[owner, name]) if part in parts else _nothing
            setattr(owner, name, function)


def _nothing(*_: Any, **__: Any) -> int:
    """Takes the place of a part that a subject is without; 0 is the digest of every batch."""
    return 0


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
