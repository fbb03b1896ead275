"""The flags of the commands `data ...`, and their help texts."""

from __future__ import annotations

import argparse
import re

from mtfrun.cli.flags.command import Command, command_word, no_flags
from mtfrun.errors import InputError

_DATA = """\
Commands about the data of a configuration. They build no model and use no device.

  mtfrun data cache --gin_file=runs/quickstart.gin    builds the caches of its texts
  mtfrun data show  --gin_file=runs/quickstart.gin    shows a few rows
  mtfrun data stats --gin_file=runs/quickstart.gin    shows statistics of the lengths of texts
  mtfrun data caches                                  lists or removes caches, with their sizes
  mtfrun data verify                                  checks all caches against their checksums"""

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

_DATA_CACHES = """\
Lists the caches of all data on this machine, with their sizes and last uses, or deletes them.

  mtfrun data caches
  mtfrun data caches --unused_days=30 --remove
  mtfrun data caches --tasks='wmt.*' --remove

--remove deletes the caches that the same flags list without it. They are rebuilt when a command
needs them. A command that is reading a cache continues, and a cache that is being built is not
deleted. Caches are in $MTFRUN_CACHE_DIR, by default ~/.cache/mtfrun; prepared datasets there are
not touched."""

_DATA_VERIFY = """\
Checks caches against the checksums of their files, which were recorded when they were built.

  mtfrun data verify
  mtfrun data verify --cache_dir=/data/cache --tasks='wmt.*'
  mtfrun data verify --gin_file=runs/quickstart.gin

Commands do the same when they read a cache for the first time on a machine, or after one of its
files has changed. Without a configuration all caches are checked, and a line for each says that it
is good, or what is wrong with it; then the exit code is 2. With a configuration its caches for
training and evaluation are checked, and damaged ones are rebuilt."""

_DATA_SHOW = """\
Shows a few rows as the model gets them: texts in segments, and how full the rows are.

  mtfrun data show --gin_file=runs/quickstart.gin
  mtfrun data show --gin_file=runs/quickstart.gin --tokens
  mtfrun data show --gin_file=runs/number_words.gin --split=validation --rows=5
  mtfrun data show --gin_file=runs/digits.gin --html=rows.html

Rows of the split "train" are those that training begins with, shuffled and with their noise; rows
of other splits are the first ones of an evaluation. Long texts are shortened; --tokens shows whole
texts, and every token with its id, its position and, unless every token has a loss, its weight.
--html writes a page with coloured segments, the id and the position of a token on hover, and
images."""

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


def _add_caches_flags(parser: argparse.ArgumentParser) -> None:
    _add_verify_flags(parser)
    add = parser.add_argument
    add("--remove", action="store_true", help="delete the listed caches")
    add(
        "--unused_days",
        type=float,
        default=0.0,
        help="only caches that nothing has opened for N days",
        metavar="N",
    )


def _add_verify_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cache_dir", help="the directory of the caches", metavar="DIR")
    add(
        "--tasks",
        help="a regular expression for the names of tasks; by default all tasks",
        metavar="REGEX",
    )


def _add_show_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--split", default="train", help="train (default) or another split", metavar="NAME")
    add("--rows", type=int, default=3, help="number of rows; 3 by default", metavar="N")
    add("--tokens", action="store_true", help="show every token with its id and position")
    add("--html", help="write a page of HTML instead", metavar="FILE")


def _check(flags: argparse.Namespace) -> None:
    if not flags.gin_file and flags.model_dir is None:
        raise InputError(f"{flags.command} needs a configuration: --gin_file=runs/quickstart.gin")


def _check_cache(flags: argparse.Namespace) -> None:
    _check(flags)
    if flags.output_cache_dir == "":
        raise InputError("--output_cache_dir needs a name")
    _check_tasks(flags)


def _check_tasks(flags: argparse.Namespace) -> None:
    try:
        re.compile(flags.tasks or "")
    except re.error as error:
        raise InputError(f"--tasks={flags.tasks} is no regular expression: {error}") from None


def _check_verify(flags: argparse.Namespace) -> None:
    _check_tasks(flags)
    if flags.cache_dir == "":
        raise InputError("--cache_dir needs a name")


def _check_caches(flags: argparse.Namespace) -> None:
    _check_verify(flags)
    if not flags.unused_days >= 0:
        raise InputError(f"--unused_days={flags.unused_days:g} must be at least 0")


def _check_show(flags: argparse.Namespace) -> None:
    _check(flags)
    if flags.rows < 1:
        raise InputError(f"--rows={flags.rows} must be at least 1")
    if flags.html == "":
        raise InputError("--html needs a name")


_MODULE, _CACHES_MODULE = "mtfrun.cli.data_commands", "mtfrun.cli.data_caches"
DATA = (
    command_word("data", _DATA, "data cache, data show, data stats, data caches or data verify"),
    Command("data cache", _DATA_CACHE, _add_cache_flags, _check_cache, f"{_MODULE}:cache"),
    Command("data show", _DATA_SHOW, _add_show_flags, _check_show, f"{_MODULE}:show"),
    Command("data stats", _DATA_STATS, no_flags, _check, f"{_MODULE}:stats"),
    Command(
        "data caches",
        _DATA_CACHES,
        _add_caches_flags,
        _check_caches,
        f"{_CACHES_MODULE}:caches",
        is_configured=False,
        is_of_run=False,
    ),
    Command(
        "data verify", _DATA_VERIFY, _add_verify_flags, _check_verify, f"{_CACHES_MODULE}:verify"
    ),
)
