"""`bin/bench grow`: the next losses of grown runs beside the old run's.

A run of a tiny language model is trained to its end, and grown in many ways from a checkpoint
before it. Every grown run then takes the remaining steps on the same batches. Prints a JSON line
for each way: the mean loss of the remaining steps, in nats, minus the old run's, over the seeds,
with a 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

_BASE = ("defaults.gin", "models/lm_tiny.gin", "data/python_docs.gin")
_SETTINGS = {
    **{"BATCH_SIZE": 16, "SEQUENCE_LENGTH": 128, "EVAL_EVERY": None, "LOG_EVERY": 20},
    **{"EVAL_AT_START": False, "ITERATIONS_PER_LOOP": 20, "WARMUP_STEPS": 100},
}
# Flags of `mtfrun grow`.
WAYS: dict[str, Sequence[str]] = {
    "d_ff x 2": ("--gin.D_FF=1024",),
    "d_ff x 2, copies": ("--gin.D_FF=1024", "--copies", "--noise=0.01"),
    "heads x 2": ("--gin.NUM_HEADS=8",),
    "d_model x 2": ("--gin.D_MODEL=256",),
    "d_model, d_ff, heads x 2": ("--gin.D_MODEL=256", "--gin.D_FF=1024", "--gin.NUM_HEADS=8"),
    "blocks x 2": ("--gin.NUM_LAYERS=4",),
    "models/lm_small.gin": ("--gin_file=models/lm_small.gin",),
    "one memory head": ("--gin.AttentionHeads.num_memory_heads=1",),
    "experts": ("--gin_file=models/moe_dropless_tiny.gin", "--gin.D_FF=512"),
}
_LOSS = re.compile(r"step (\d+)/\d+ +loss ([0-9.]+)")
# The 0.975 quantile of Student's t by degrees of freedom.
_QUANTILES = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776}


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(prog="bin/bench grow", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="before the model grows")
    parser.add_argument("--next", type=int, default=100, help="steps afterwards")
    parser.add_argument("--only", help="one of the ways")
    options = parser.parse_args()
    ways = {name: WAYS[name] for name in WAYS if options.only in (None, name)}
    differences: dict[str, list[float]] = {name: [] for name in ways}
    before = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as directory:
            old = pathlib.Path(directory, "old")
            losses = _train_old(old, seed, options.steps, options.next)
            before.append(_mean(losses, options.steps))
            for name, flags in ways.items():
                new = pathlib.Path(directory, "new", str(len(differences[name])), name)
                losses = _grow_and_train(old, new, options.steps, flags)
                differences[name].append(_mean(losses, options.steps) - before[-1])
    for name, values in differences.items():
        print(json.dumps({"subject": name, **_summary(values), "old": _round(before)}))


def _train_old(run: pathlib.Path, seed: int, steps: int, further: int) -> dict[int, float]:
    flags = [
        *(f"--gin_file={file}" for file in _BASE),
        *(f"--gin.{name}={value}" for name, value in _SETTINGS.items()),
        *(f"--gin.TRAIN_STEPS={steps + further}", f"--gin.CHECKPOINT_EVERY={steps}"),
        f"--gin.Experiment.seed={seed}",
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
        summary["interval"] = round(_QUANTILES.get(len(differences) - 1, 2.6) * error, 4)
    return {**summary, "by_seed": _round(differences)}


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


if __name__ == "__main__":
    main()
