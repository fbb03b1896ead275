from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, check_least, require_model_dir
from mtfrun.display import progress
from mtfrun.display.formats import number_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns

if TYPE_CHECKING:
    from mtfrun.metrics.curves import Curves

_DESCRIPTION = """\
Prints the curves of a run as a table: metrics of training and of its evaluations.

  mtfrun curves --model_dir=/tmp/run
  mtfrun curves --model_dir=/tmp/run --rows=40

A row is a step of an evaluation or of a line of progress; of more than --rows of these some are
chosen, evenly, the first and the last among them.

TensorBoard draws the same numbers, and more: tensorboard --logdir /tmp/run"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=int, default=12, help="at most so many steps (default: 12)", metavar="N"
    )


def _check(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    check_least(flags, 2, "rows")  # the first and the last step


# In this order, before all other metrics by name. Tags of single tasks and layers have a "/".
_TRAIN_METRICS = ("loss", "accuracy")
_EVAL_METRICS = ("loss", "accuracy", "bits_per_byte", "perplexity")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.files import RunDirError
    from mtfrun.metrics.curves import read_curves
    from mtfrun.rundir import RunDirectory

    run = RunDirectory(flags.model_dir)
    run.require()
    with progress.waiting("reading the curves"):
        train, evaluations = (read_curves(f"{run.path}/{name}") for name in ("train", "eval"))
    if not any((*train.values(), *evaluations.values())):
        raise RunDirError(f"{run.path} has no curves yet: train writes them every LOG_EVERY steps")
    print_lines(*curve_table(train, evaluations, flags.rows))
    return 0


def curve_table(train: Curves, evaluations: Curves, rows: int) -> list[str]:
    """Returns a heading and lines for at most `rows` steps, preferably with evaluations."""
    from mtfrun.metrics.curves import choose_steps
    from mtfrun.metrics.tags import tag_of

    columns = {f"train {tag}": train[tag] for tag in _TRAIN_METRICS if tag in train}
    further = sorted(tag for tag in evaluations if "/" not in tag and tag not in _EVAL_METRICS)
    for name in (*_EVAL_METRICS, *further):
        if (tag := tag_of(name)) in evaluations:
            columns[f"eval {name}"] = evaluations[tag]
    all_steps = {step for curve in columns.values() for step in curve}
    of_evaluations = {step for curve in evaluations.values() for step in curve}
    steps = choose_steps(all_steps, of_evaluations, rows)
    texts = [
        [f"{step:,}", *(number_text(curve.get(step)) for curve in columns.values())]
        for step in steps
    ]
    return table_lines(["step", *columns], texts, terminal_columns())


COMMANDS = [Command("curves", _DESCRIPTION, run, _add_flags, _check, subject="run")]
