"""The flags of the commands `checkpoints ...`, and their help texts."""

from __future__ import annotations

import argparse
import re

from mtfrun.cli.flags.command import Command, command_word
from mtfrun.errors import InputError

_CHECKPOINTS = """\
Commands about the checkpoints of a run.

  mtfrun checkpoints list    --model_dir=/tmp/run     steps, dates, sizes, metrics, damage
  mtfrun checkpoints show    --model_dir=/tmp/run     the variables of one
  mtfrun checkpoints verify  --model_dir=/tmp/run     compares all files with their hashes
  mtfrun checkpoints diff    /tmp/run /tmp/other      the differences of two
  mtfrun checkpoints average --model_dir=/tmp/run --last=5 --output=/tmp/averaged
  mtfrun checkpoints prune   --model_dir=/tmp/run --keep=2

--model_dir may also be a directory of checkpoints itself, such as /tmp/run/checkpoints.1."""

_LIST = """\
Lists the checkpoints of a run: step, date, size, mesh, metric, state.

  mtfrun checkpoints list --model_dir=/tmp/run
  mtfrun checkpoints list --model_dir=/tmp/run --metric=bits_per_byte
  mtfrun checkpoints list --model_dir=/tmp/run --json

The metric is that of the evaluation at the step of the checkpoint during training; * marks the best
one. A checkpoint is "good" if its files have the sizes that were saved; `checkpoints verify`
compares their contents too."""

_SHOW = """\
Shows the variables of a checkpoint, and what is recorded about it.

  mtfrun checkpoints show --model_dir=/tmp/run
  mtfrun checkpoints show --model_dir=/tmp/run --checkpoint=1000 --match=attention
  mtfrun checkpoints show --model_dir=/tmp/run --norms --slots
  mtfrun checkpoints show --model_dir=/tmp/run --json

For every variable of the model: its dimensions, type and bytes. --slots adds those of the optimizer
and the averages, of which otherwise only the sum is shown; --match=REGEX shows the variables in
whose path the expression is found; --norms adds the root of the mean square of every variable and
its largest absolute value, which takes as long as reading it."""

_VERIFY = """\
Compares the files of checkpoints with the hashes that were recorded when they were saved.

  mtfrun checkpoints verify --model_dir=/tmp/run
  mtfrun checkpoints verify --model_dir=/tmp/run --checkpoint=1000

A line says for every checkpoint whether it is good, and for every damaged file what is wrong with
it; then the exit code is 5. Nothing is deleted or changed, and a copy of a run directory is
verified in the same way."""

_DIFF = """\
Compares the variables of two checkpoints, of one or of two runs.

  mtfrun checkpoints diff /tmp/run /tmp/other
  mtfrun checkpoints diff /tmp/run@1000 /tmp/run@2000
  mtfrun checkpoints diff --model_dir=/tmp/run 1000 2000

A checkpoint is a run directory, for its newest good one, or DIRECTORY@STEP, or a step of
--model_dir. Variables that only one has and those of different shapes come first; then those whose
values differ, with the largest absolute difference and the relative one, the norm of the difference
over the norm of the first value, largest first. The variables are those of the model; --slots adds
the optimizer's and the averages, --match=REGEX takes those in whose path the expression is found.
--rows=N prints so many that differ (20 by default, 0 for all)."""

_AVERAGE = """\
Averages the weights of several checkpoints of a run, into a new run directory.

  mtfrun checkpoints average --model_dir=/tmp/run --last=5 --output=/tmp/averaged
  mtfrun checkpoints average --model_dir=/tmp/run --steps=8000,9000,10000 --output=/tmp/averaged

Sums are in float64. The new run has the configuration of the old one, the step of the newest
checkpoint, and no optimizer: eval, decode, score and export take it, and
--gin.INIT_CHECKPOINT="'/tmp/averaged'" of another run. Moving averages of the weights, if the run
has them, are averaged too (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407)."""

_PRUNE = """\
Deletes checkpoints of a run.

  mtfrun checkpoints prune --model_dir=/tmp/run --keep=2
  mtfrun checkpoints prune --model_dir=/tmp/run --steps=1000,2000
  mtfrun checkpoints prune --model_dir=/tmp/run --keep=2 --dry_run
  mtfrun checkpoints prune --model_dir=/tmp/run --set_aside

--keep=N deletes all but the newest N; --steps=... deletes those of these steps. It prints what it
deletes, and does not ask; --dry_run only prints. --set_aside deletes checkpoints.1, .2, ..., to
which `train --restart` has moved older checkpoints, and all files in them. The newest good
checkpoint, whose files are as they were saved, is never deleted, and nothing is deleted while a
process trains the run."""


def _steps(text: str) -> list[int]:
    """Returns the steps of "100,200"."""
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"--steps={text}: name steps, separated by commas: --steps=1000,2000")
    return sorted({int(word) for word in words})


def _add_checkpoint(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--checkpoint", help=f"a step; {default} by default", metavar="STEP")


def _add_match(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--match", default="", help="a regular expression of paths of variables", metavar="REGEX"
    )


def _add_list_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", help="of the evaluations; loss by default", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def _add_show_flags(parser: argparse.ArgumentParser) -> None:
    _add_checkpoint(parser, "the newest")
    _add_match(parser)
    parser.add_argument("--norms", action="store_true", help="read the values")
    parser.add_argument("--slots", action="store_true", help="optimizer and averages too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_verify_flags(parser: argparse.ArgumentParser) -> None:
    _add_checkpoint(parser, "all")


def _add_diff_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="DIRECTORY, DIRECTORY@STEP or a step")
    parser.add_argument("second", metavar="B", help="the same")
    _add_match(parser)
    parser.add_argument("--slots", action="store_true", help="optimizer and averages too")
    parser.add_argument("--rows", type=int, default=20, help="lines of values", metavar="N")


def _add_average_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--last", type=int, help="how many of the newest", metavar="N")
    parser.add_argument("--steps", help="which ones", metavar="STEPS")
    parser.add_argument("--output", help="the new run directory", metavar="DIR")


def _add_prune_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=int, help="how many of the newest to keep", metavar="N")
    parser.add_argument("--steps", help="which ones to delete", metavar="STEPS")
    parser.add_argument(
        "--set_aside", action="store_true", help="delete checkpoints.1, ... of `train --restart`"
    )
    parser.add_argument("--dry_run", action="store_true", help="delete nothing")


def _check(flags: argparse.Namespace) -> None:
    """Raises InputError without a run, and for a step or an expression that is none."""
    if flags.model_dir is None:
        raise InputError(f"{flags.command} needs the directory of a run: --model_dir=/tmp/run")
    _check_match(flags)
    step = getattr(flags, "checkpoint", None)
    if step is not None and not step.isdecimal():
        raise InputError(f"--checkpoint={step} is no step")


def _check_match(flags: argparse.Namespace) -> None:
    text = getattr(flags, "match", "")
    try:
        re.compile(text)
    except re.error as error:
        raise InputError(f"--match={text} is no regular expression: {error}") from None


def _check_diff(flags: argparse.Namespace) -> None:
    _check_match(flags)
    if flags.rows < 0:
        raise InputError(f"--rows={flags.rows} must be at least 0")
    for name in (flags.first, flags.second):
        if name.isdecimal() and flags.model_dir is None:
            raise InputError(f"step {name} of which run? Give --model_dir, or DIRECTORY@{name}")


def _check_choice(flags: argparse.Namespace, count: str) -> None:
    """Raises InputError unless there is either a number of checkpoints or a list of steps."""
    number = getattr(flags, count)
    if (number is None) == (flags.steps is None):
        raise InputError(f"{flags.command} needs either --{count}=N or --steps=1000,2000")
    if number is not None and number < 1:
        raise InputError(f"--{count}={number} must be at least 1")
    if flags.steps is not None:
        flags.steps = _steps(flags.steps)


def _check_average(flags: argparse.Namespace) -> None:
    _check(flags)
    _check_choice(flags, "last")
    if not flags.output:
        raise InputError(f"{flags.command} needs a new run directory: --output=/tmp/averaged")


def _check_prune(flags: argparse.Namespace) -> None:
    _check(flags)
    if flags.set_aside and flags.keep is None and flags.steps is None:
        return
    if flags.set_aside:
        raise InputError("--set_aside goes without --keep and --steps")
    _check_choice(flags, "keep")


_MODULE = "mtfrun.cli.checkpoints"
CHECKPOINTS = (
    command_word("checkpoints", _CHECKPOINTS, "list, show, verify, diff, average or prune"),
    Command(
        "checkpoints list",
        _LIST,
        _add_list_flags,
        _check,
        f"{_MODULE}.listing:show_list",
        imports_tensorflow=False,
        is_configured=False,
    ),
    Command(
        "checkpoints show",
        _SHOW,
        _add_show_flags,
        _check,
        f"{_MODULE}.showing:show",
        imports_tensorflow=False,  # but for --norms
        is_configured=False,
    ),
    Command(
        "checkpoints verify",
        _VERIFY,
        _add_verify_flags,
        _check,
        f"{_MODULE}.verification:verify",
        imports_tensorflow=False,
        is_configured=False,
    ),
    Command(
        "checkpoints diff",
        _DIFF,
        _add_diff_flags,
        _check_diff,
        f"{_MODULE}.difference:diff",
        is_configured=False,
    ),
    Command(
        "checkpoints average",
        _AVERAGE,
        _add_average_flags,
        _check_average,
        f"{_MODULE}.averaging:average",
        is_configured=False,
    ),
    Command(
        "checkpoints prune",
        _PRUNE,
        _add_prune_flags,
        _check_prune,
        f"{_MODULE}.pruning:prune",
        imports_tensorflow=False,
        is_configured=False,
    ),
)
