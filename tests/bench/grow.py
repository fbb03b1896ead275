"""`bin/bench grow`: the next losses of grown runs beside the old run's.

A run of a preset is trained to its end, and grown from a checkpoint before it: in ways of one
dimension or several, or to another preset. Every grown run then takes the remaining steps on the
same batches. Prints a JSON line for each way: the mean loss of the remaining steps, in nats, minus
the old run's, over the seeds, with a 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats


class Way(NamedTuple):
    """A run's preset, and flags of `mtfrun grow`."""

    old: str
    flags: Sequence[str]


class Budget(NamedTuple):
    """How runs are trained: `steps` before the model grows, `further` ones afterwards."""

    seeds: int
    steps: int
    further: int
    batch_size: int
    sequence_length: int


SMALL, LARGE = Budget(3, 300, 100, 16, 128), Budget(1, 60, 20, 4, 96)
# Of lm_tiny.
WAYS: dict[str, Sequence[str]] = {
    "d_ff x 2": ("--gin.D_FF=1024",),
    "d_ff x 2, copies": ("--gin.D_FF=1024", "--copies", "--noise=0.01"),
    "heads x 2": ("--gin.NUM_HEADS=8",),
    "d_model x 2": ("--gin.D_MODEL=256",),
    "d_model, d_ff, heads x 2": ("--gin.D_MODEL=256", "--gin.D_FF=1024", "--gin.NUM_HEADS=8"),
    "blocks x 2": ("--gin.NUM_LAYERS=4",),
    "one memory head": ("--gin.AttentionHeads.num_memory_heads=1",),
}
# The preset of a run, the one that it grows to, and flags for sizes and settings of its own.
Pairs = Sequence[tuple[str, str, Sequence[str]]]
PAIRS: Pairs = [
    ("lm_tiny", "lm_small", ()),
    ("lm_tiny", "moe_dropless_tiny", ("--gin.D_FF=512",)),
    ("lm_tiny", "moe_1d_tiny", ("--gin.D_FF=512",)),
    ("lm_tiny", "moe_1d_tiny", ("--gin.D_FF=512", "--gin.CAPACITY_FACTOR=8.0")),
    ("lm_tiny", "moe_2d_tiny", ("--gin.D_FF=512",)),
    ("lm_tiny", "moe_switch_tiny", ("--gin.D_FF=512",)),
    ("lm_tiny", "moe_switch_tiny", ("--gin.D_FF=512", "--gin.CAPACITY_FACTOR=8.0")),
    ("moe_1d_tiny", "moe_2d_tiny", ("--gin.NUM_EXPERTS=(8, 2)",)),
    ("moe_1d_tiny", "moe_2d_tiny", ()),
]
# Of which one model has 30 million parameters or more.
LARGE_PAIRS: Pairs = [
    ("lm_tiny", "lm_base", ()),
    ("lm_tiny", "moe_2d_base", ()),
    ("lm_small", "lm_base", ()),
    ("lm_small", "moe_2d_base", ()),
    ("moe_2d_tiny", "moe_2d_base", ()),
    *(
        (f"{version}.{old}", f"{version}.{new}", ())
        for version in ("t5.1.0", "t5.1.1")
        for old, new in (("tiny", "small"), ("tiny", "base"), ("small", "base"))
    ),
    ("t2t_transformer_tiny", "t2t_transformer_base", ()),
]
# By the first letters of a preset.
_DATA = {"lm": "python_docs", "moe": "python_docs", "t5": "number_words", "t2t": "number_words"}
_SETTINGS = {
    **{"EVAL_EVERY": None, "EVAL_AT_START": False, "LOG_EVERY": 20, "ITERATIONS_PER_LOOP": 20},
    # There is one at the end.
    **{"Evaluation.max_batches": 1, "Evaluation.evaluators": []},
}
_LOSS = re.compile(r"step (\d+)/\d+ +loss ([0-9.]+)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench grow", description=__doc__)
    parser.add_argument("--large", action="store_true", help="pairs with a large model")
    parser.add_argument("--seeds", type=int, help="3; 1 of --large")
    parser.add_argument("--steps", type=int, help="before the model grows: 300; 60 of --large")
    parser.add_argument("--next", type=int, help="steps afterwards: 100; 20 of --large")
    parser.add_argument("--only", default="", help="of names that contain this")
    options = parser.parse_args()
    budget = LARGE if options.large else SMALL
    budget = Budget(
        options.seeds or budget.seeds,
        options.steps or budget.steps,
        options.next or budget.further,
        *budget[3:],
    )
    pairs = LARGE_PAIRS if options.large else PAIRS
    ways = {} if options.large else {name: Way("lm_tiny", flags) for name, flags in WAYS.items()}
    for old, new, flags in pairs:
        words = [f"--gin_file=models/{new}.gin", *flags]
        ways[" ".join([old, "->", new, *flags])] = Way(old, words)
    _compare({name: way for name, way in ways.items() if options.only in name}, budget)


def _compare(ways: dict[str, Way], budget: Budget) -> None:
    before = collections.defaultdict(list)
    differences = collections.defaultdict(list)
    for preset in dict.fromkeys(way.old for way in ways.values()):
        of_preset = {name: way.flags for name, way in ways.items() if way.old == preset}
        for seed in range(budget.seeds):
            with tempfile.TemporaryDirectory() as directory:
                old = pathlib.Path(directory, "old")
                losses = _train_old(old, preset, seed, budget)
                before[preset].append(_mean(losses, budget.steps))
                for number, (name, flags) in enumerate(of_preset.items()):
                    new = pathlib.Path(directory, str(number))
                    losses = _grow_and_train(old, new, budget.steps, flags)
                    differences[name].append(_mean(losses, budget.steps) - before[preset][-1])
                    print(f"{name}, seed {seed}: {differences[name][-1]:+.4f}", file=sys.stderr)
        for name in of_preset:
            summary = _summary(differences[name])
            line = {"subject": name, **summary, "old": _round(before[preset])}
            print(json.dumps(line), flush=True)


def _train_old(run: pathlib.Path, preset: str, seed: int, budget: Budget) -> dict[int, float]:
    data = next(data for letters, data in _DATA.items() if preset.startswith(letters))
    settings = {
        **_SETTINGS,
        "BATCH_SIZE": budget.batch_size,
        "SEQUENCE_LENGTH": budget.sequence_length,
        "WARMUP_STEPS": min(100, budget.steps // 3),
        "TRAIN_STEPS": budget.steps + budget.further,
        "CHECKPOINT_EVERY": budget.steps,
        "SEED": seed,
    }
    flags = [
        *(f"--gin_file={x}" for x in ("defaults.gin", f"models/{preset}.gin", f"data/{data}.gin")),
        *(f"--gin.{name}={value}" for name, value in settings.items()),
    ]
    return _losses("train", *flags, f"--model_dir={run}")


def _grow_and_train(
    old: pathlib.Path, new: pathlib.Path, step: int, flags: Sequence[str]
) -> dict[int, float]:
    _losses("grow", f"--from_run={old}", f"--checkpoint={step}", *flags, f"--model_dir={new}")
    return _losses("train", f"--gin_file={new}/config.gin", f"--model_dir={new}")


def _losses(*arguments: str) -> dict[int, float]:
    """Returns the losses that a command prints, each the mean of the steps since the one before."""
    words = [sys.executable, "-m", "mtfrun", *arguments]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(process.stderr)
    matches = _LOSS.findall(process.stdout + process.stderr)
    return {int(step): float(loss) for step, loss in matches}


def _mean(losses: dict[int, float], after: int) -> float:
    return statistics.fmean(loss for step, loss in losses.items() if step > after)


def _summary(differences: Sequence[float]) -> dict[str, object]:
    summary: dict[str, object] = {"difference": round(statistics.fmean(differences), 4)}
    if len(differences) > 1:
        error = statistics.stdev(differences) / len(differences) ** 0.5
        quantile = float(stats.t.ppf(0.975, len(differences) - 1))
        summary["interval"] = round(quantile * error, 4)
    return {**summary, "by_seed": _round(differences)}


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


if __name__ == "__main__":
    main()
