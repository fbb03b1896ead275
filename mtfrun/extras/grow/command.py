from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, add_checkpoint, at_least
from mtfrun.display import progress
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape

if TYPE_CHECKING:
    from mtfrun.extras.grow.growth import GrownRun

_DESCRIPTION = """\
Makes a run of a larger model that begins with the function, the step and the optimizer of another.

  mtfrun grow --from_run=/tmp/run --gin.D_MODEL=256 --gin.D_FF=1024 --gin.NUM_HEADS=8 \\
      --gin.NUM_LAYERS=4 --gin.TRAIN_STEPS=2000 --model_dir=/tmp/grown
  mtfrun grow --from_run=/tmp/run --gin_file=models/lm_small.gin --model_dir=/tmp/grown
  mtfrun grow --from_run=/tmp/run --gin_file=models/moe_1d_tiny.gin --gin.D_FF=512 \\
      --model_dir=/tmp/mixture
  mtfrun train --gin_file=/tmp/grown/config.gin --model_dir=/tmp/grown

The configuration is the run's, then the files and bindings given here. What may grow: d_model,
d_ff, heads, d_kv, blocks, positions, ids; the filters of a ResNet. Feed-forward layers may become
mixtures of experts, and these mixtures of two levels. Heads may share keys and values, which
changes the function. docs/extras/grow.md has the rule of every dimension.

It prints how every variable was made, and how far the logits of some rows are from the run's.
Nothing of --from_run changes."""

# What float32 rounds in a deep model.
_ROUNDING = 1e-5


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--from_run", help="the run of the smaller model", path="directory")
    add_checkpoint(parser)
    add(
        "--copies",
        action="store_true",
        help="new units repeat old ones, and what reads them is divided; by default they have "
        "initial values and are not read yet",
    )
    add(
        "--noise",
        type=at_least(0, float),
        default=0.0,
        help="differences between copies, relative to their values, so that they learn different "
        "things; 0 by default",
    )
    add("--dry_run", action="store_true", help="write nothing")


def _check(flags: argparse.Namespace) -> None:
    if not flags.from_run:
        raise InputError("grow needs the run of a smaller model: --from_run=/tmp/run")
    if flags.model_dir is None and not flags.dry_run:
        raise InputError("grow needs a directory for the new run: --model_dir=/tmp/grown")
    if not flags.gin_file and not flags.bindings:
        raise InputError("grow needs what is to be larger, such as --gin.D_FF=1024")
    if flags.checkpoint not in ("latest", "best") and not flags.checkpoint.isdecimal():
        raise InputError(f"--checkpoint={flags.checkpoint} is neither a step nor latest nor best")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.experiment.conversion.importer import check_new
    from mtfrun.experiment.runs.opening import Settings, find_trained_run
    from mtfrun.extras.grow.growth import grow
    from mtfrun.rundir import RunDirectory

    former = find_trained_run(flags.from_run)
    if not flags.dry_run:
        check_new(pathlib.Path(RunDirectory(flags.model_dir).path), "--model_dir")
    with progress.waiting("growing the model"):
        grown = grow(
            former,
            Settings.of_flags(flags),
            checkpoint=flags.checkpoint,
            copies=flags.copies,
            noise=flags.noise,
        )
    headings = ("variable", "before", "after", "how")
    print_lines(*table_lines(headings, grown.table, terminal_columns()), "", *_summary(grown))
    if flags.dry_run:
        return 0
    grown.save(flags.model_dir)
    target = RunDirectory(flags.model_dir).path
    print_lines(f"{target}: step {grown.step}, grown from {former.path}")
    train_steps = grown.training.options.train_steps
    if train_steps <= grown.step:
        progress.note(
            f"mtfrun: note: its training ends at step {train_steps}: train with a larger "
            "--gin.TRAIN_STEPS"
        )
    return 0


def _summary(grown: GrownRun) -> list[str]:
    missing = len(grown.training.state.optimizer.named_slots()) - grown.num_slots
    lines = [
        f"optimizer: {grown.num_slots} slots from the run, {missing} begin with 0",
        *(f"note: {escape(note)}" for note in grown.notes),
    ]
    if grown.difference is None:
        lines.append("logits: of other texts, since the ids mean others")
        return lines
    largest, mean = grown.difference
    is_same = largest <= _ROUNDING
    if not (is_same or grown.notes):
        lines.append("note: a setting that is not a size differs, such as an activation")
    verdict = "the function is the same" if is_same else "the function has changed"
    lines.append(
        f"logits: they differ by at most {largest:.1e} of the largest, {mean:.1e} in the mean: "
        f"{verdict}"
    )
    return lines


COMMANDS = [Command("grow", _DESCRIPTION, run, _add_flags, _check, is_configured=False)]
