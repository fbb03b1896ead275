"""`bin/bench grow`: the next losses of grown runs beside the old run's.

A run of a preset is trained to its end, and grown from a checkpoint before it: in ways of one
dimension or several, or to another preset. Every grown run then takes the remaining steps on the
same batches. Prints a JSON line for each way: the mean loss of the remaining steps, in nats, minus
the old run's, over the seeds, with a 95 % interval (Student's t).
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

from scipy import stats

BATCH_SIZE, SEQUENCE_LENGTH = 16, 128
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
PAIRS: Sequence[tuple[str, str, Sequence[str]]] = [
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
_SETTINGS = {
    **{"EVAL_EVERY": None, "EVAL_AT_START": False, "LOG_EVERY": 20, "ITERATIONS_PER_LOOP": 20},
    # There is one at the end.
    **{"Evaluation.max_batches": 1, "Evaluation.evaluators": []},
}
_LOSS = re.compile(r"step (\d+)/\d+ +loss ([0-9.]+)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench grow", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="before the model grows")
    parser.add_argument("--next", type=int, default=100, help="steps afterwards")
    parser.add_argument("--only", default="", help="of names that contain this")
    options = parser.parse_args()
    ways: dict[str, dict[str, Sequence[str]]] = {"lm_tiny": dict(WAYS)}  # by the old run's preset
    for old, new, flags in PAIRS:
        name = " ".join([old, "->", new, *flags])
        ways.setdefault(old, {})[name] = [f"--gin_file=models/{new}.gin", *flags]
    for preset, named in ways.items():
        chosen = {name: flags for name, flags in named.items() if options.only in name}
        if chosen:
            _compare(preset, chosen, options)


def _compare(preset: str, ways: dict[str, Sequence[str]], options: argparse.Namespace) -> None:
    means: list[float] = []  # of the old runs, by seed
    differences: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as directory:
            old = pathlib.Path(directory, "old")
            means.append(_mean(_train_old(old, preset, seed, options), options.steps))
            for number, (name, flags) in enumerate(ways.items()):
                losses = _grow_and_train(old, pathlib.Path(directory, f"{number}"), options, flags)
                differences[name].append(_mean(losses, options.steps) - means[-1])
                print(f"{name}, seed {seed}: {differences[name][-1]:+.4f}", file=sys.stderr)
    for name, values in differences.items():
        print(json.dumps({"subject": name, **_summary(values), "old": _round(means)}), flush=True)


def _train_old(
    run: pathlib.Path, preset: str, seed: int, options: argparse.Namespace
) -> dict[int, float]:
    settings = {
        **_SETTINGS,
        "BATCH_SIZE": BATCH_SIZE,
        "SEQUENCE_LENGTH": SEQUENCE_LENGTH,
        "WARMUP_STEPS": min(100, options.steps // 3),
        "TRAIN_STEPS": options.steps + options.next,
        "CHECKPOINT_EVERY": options.steps,
        "SEED": seed,
    }
    files = ("defaults.gin", f"models/{preset}.gin", "data/python_docs.gin")
    flags = [f"--gin_file={file}" for file in files]
    flags += [f"--gin.{name}={value}" for name, value in settings.items()]
    return _losses("train", *flags, f"--model_dir={run}")


def _grow_and_train(
    old: pathlib.Path, new: pathlib.Path, options: argparse.Namespace, flags: Sequence[str]
) -> dict[int, float]:
    start = [f"--from_run={old}", f"--checkpoint={options.steps}"]
    _losses("grow", *start, *flags, f"--model_dir={new}")
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
