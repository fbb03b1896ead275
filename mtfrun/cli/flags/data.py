"""The flags of the commands `data ...`, and their help texts."""

from __future__ import annotations

import argparse
import re

from mtfrun.cli.errors import UsageError
from mtfrun.cli.flags.command import Command, command_word, no_flags

_DATA = """\
Commands about the data of a configuration. They build no model and use no device.

  mtfrun data cache --gin_file=runs/quickstart.gin    builds the caches of its texts
  mtfrun data show  --gin_file=runs/quickstart.gin    shows a few rows
  mtfrun data stats --gin_file=runs/quickstart.gin    shows statistics of the lengths of texts"""

_DATA_CACHE = """\
Builds the caches of a configuration's texts: the ids of its training and its evaluation split.

  mtfrun data cache --gin_file=runs/quickstart.gin
  mtfrun data cache --gin_file=my.gin --tasks='wmt.*' --output_cache_dir=/data/cache
  mtfrun data cache --gin_file=my.gin --overwrite

Training builds the caches that it lacks, so that this command is only needed to build them on
another machine or at another time. For every task and split a line on standard output says how many
examples, tokens and bytes there are, how long it took, and where the cache is. A cache belongs to
its source, preprocessors and vocabulary, and is found again by them; if one changes, another cache
is built.

Caches are in $MTFRUN_CACHE_DIR, by default ~/.cache/mtfrun. --output_cache_dir names another
directory; MTFRUN_CACHE_DIR=/data/cache mtfrun train ... then trains from it. A build that a signal
ends leaves nothing behind."""

_DATA_SHOW = """\
Shows a few rows as the model gets them: texts, ids, positions, segments, loss, density.

  mtfrun data show --gin_file=runs/quickstart.gin
  mtfrun data show --gin_file=runs/number_words.gin --split=validation --rows=5
  mtfrun data show --gin_file=runs/digits.gin --html=rows.html

Rows of the split "train" are those that training begins with, shuffled and with their noise; rows
of other splits are the first ones of an evaluation. --html writes a page that shows every segment
in a colour, and the id and the position of a token under the mouse, and images."""

_DATA_STATS = """\
Shows the lengths of a configuration's texts, and how much of them is cut and padded.

  mtfrun data stats --gin_file=runs/quickstart.gin
  mtfrun data stats --gin_file=my.gin --gin.INPUTS_LENGTH=64 --gin.TARGETS_LENGTH=32

For every task, split and feature: the number of texts, their tokens and bytes, mean, percentiles
and a histogram of the tokens of a text, and what of them is cut at the configured lengths. For
every split: the share of the positions of its rows that hold a token."""


def _add_cache_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tasks",
        help="a regular expression of the names of the tasks; by default all",
        metavar="REGEX",
    )
    add("--output_cache_dir", help="the directory of the caches", metavar="DIR")
    add("--overwrite", action="store_true", help="build again what exists")


def _add_show_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--split", default="train", help="train (default) or another split", metavar="NAME")
    add("--rows", type=int, default=3, help="number of rows; 3 by default", metavar="N")
    add("--html", help="write a page of HTML instead", metavar="FILE")


def _check(flags: argparse.Namespace) -> None:
    if not flags.gin_file and flags.model_dir is None:
        raise UsageError(f"{flags.command} needs a configuration: --gin_file=runs/quickstart.gin")


def _check_cache(flags: argparse.Namespace) -> None:
    _check(flags)
    if flags.output_cache_dir == "":
        raise UsageError("--output_cache_dir needs a name")
    if flags.tasks is not None:
        try:
            re.compile(flags.tasks)
        except re.error as error:
            raise UsageError(f"--tasks={flags.tasks} is no regular expression: {error}") from None


def _check_show(flags: argparse.Namespace) -> None:
    _check(flags)
    if flags.rows < 1:
        raise UsageError(f"--rows={flags.rows} must be at least 1")
    if flags.html == "":
        raise UsageError("--html needs a name")


_MODULE = "mtfrun.cli.data_commands"
DATA = (
    command_word("data", _DATA, "data cache, data show or data stats"),
    Command("data cache", _DATA_CACHE, _add_cache_flags, _check_cache, f"{_MODULE}:cache"),
    Command("data show", _DATA_SHOW, _add_show_flags, _check_show, f"{_MODULE}:show"),
    Command("data stats", _DATA_STATS, no_flags, _check, f"{_MODULE}:stats"),
)
