from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command
from mtfrun.cli.commands.data.flags import check_configured, check_tasks, configure_data
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.data.cache_directory import CacheChoice

_DESCRIPTION = """\
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


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tasks",
        help="a regular expression of the names of the tasks; by default all",
        metavar="REGEX",
    )
    add("--output_cache_dir", help="the directory of the caches", metavar="DIR")
    add("--overwrite", action="store_true", help="build again what exists")


def _check(flags: argparse.Namespace) -> None:
    check_configured(flags)
    if flags.output_cache_dir == "":
        raise InputError("--output_cache_dir needs a name")
    check_tasks(flags)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data.cache_directory import CacheChoice

    choice = CacheChoice(flags.tasks or ".*", flags.output_cache_dir, flags.overwrite)
    return print_caches(flags, choice)


def print_caches(flags: argparse.Namespace, choice: CacheChoice) -> int:
    configured = configure_data(flags)
    data, splits = configured.data, configured.splits
    if not data.cached_tasks:
        raise InputError(f"{type(data).__name__} is read without a cache: there is none to build")
    if not any(map(choice.includes, data.cached_tasks)):
        raise InputError(
            f"--tasks={flags.tasks} matches no task; there are {', '.join(data.cached_tasks)}"
        )
    for split in splits:
        start = time.monotonic()
        for cached in data.caches(split, choice):
            secs = time.monotonic() - start
            counts = ", ".join(f"{number:,} {name}" for name, number in cached.counts.items())
            print_lines(
                f"{cached.title} {cached.split}: {counts}, {secs:.1f} s, {cached.directory}"
            )
            start = time.monotonic()
    return 0


DATA_CACHE = Command("data cache", _DESCRIPTION, _add_flags, _check, run)
