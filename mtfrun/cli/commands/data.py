from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtfrun.cli.command import (
    Command,
    check_least,
    check_names,
    check_pattern,
    configured_data,
    require_configuration,
)
from mtfrun.display import progress
from mtfrun.display.formats import bytes_text, time_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.data.cache.directory import CacheChoice


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    text = "a regular expression for the names of tasks; by default all tasks"
    parser.add_argument("--tasks", help=text, metavar="REGEX")


_CACHE = """\
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


def _add_cache_flags(parser: argparse.ArgumentParser) -> None:
    _add_tasks(parser)
    add = parser.add_argument
    add("--output_cache_dir", help="the directory of the caches", metavar="DIR")
    add("--overwrite", action="store_true", help="build again what exists")


def _check_cache(flags: argparse.Namespace) -> None:
    require_configuration(flags)
    check_names(flags, "output_cache_dir")
    check_pattern(flags, "tasks")


def _run_cache(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data.cache.directory import CacheChoice

    choice = CacheChoice(flags.tasks or ".*", flags.output_cache_dir, flags.overwrite)
    return _print_caches(flags, choice)


def _print_caches(flags: argparse.Namespace, choice: CacheChoice) -> int:
    configured = configured_data(flags)
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
            title = f"{cached.title} {cached.split}"
            print_lines(f"{title}: {counts}, {secs:.1f} s, {cached.directory}")
            start = time.monotonic()
    return 0


_VERIFY = """\
Checks caches against the checksums of their files, which were recorded when they were built.

  mtfrun data verify
  mtfrun data verify --cache_dir=/data/cache --tasks='wmt.*'
  mtfrun data verify --gin_file=runs/quickstart.gin

Commands do the same when they read a cache for the first time on a machine, or after one of its
files has changed. Without a configuration all caches are checked, and a line for each says that it
is good, or what is wrong with it; then the exit code is 2. With a configuration its caches for
training and evaluation are checked, and damaged ones are rebuilt."""


def _add_verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache_dir", help="the directory of the caches", metavar="DIR")
    _add_tasks(parser)


def _check_verify(flags: argparse.Namespace) -> None:
    check_pattern(flags, "tasks")
    check_names(flags, "cache_dir")


def _run_verify(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data import DataError
    from mtfrun.data.cache.directory import (
        MANIFEST,
        CacheChoice,
        DamagedCacheError,
        resolve_cache_dir,
    )

    if flags.gin_file or flags.model_dir is not None:
        return _print_caches(flags, CacheChoice(flags.tasks or ".*", flags.cache_dir, anew=True))
    damaged = []
    for directory in _choose_caches(flags):
        if not (directory / MANIFEST).exists():  # being built, or left by a killed build
            continue
        try:
            _compare(directory)
            print(f"{_cache_name(directory)}: good", flush=True)
        except DamagedCacheError as error:
            damaged.append(_cache_name(directory))
            print(f"{_cache_name(directory)}: {error.reason}", flush=True)
    if damaged:
        raise DataError(
            f"{len(damaged)} cache(s) in {resolve_cache_dir(flags.cache_dir)} are damaged, the "
            f"first is {damaged[0]}: training builds them anew, or remove them"
        )
    return 0


def _compare(directory: Path) -> None:
    from mtfrun.data.cache.tokens import TOKENS, TokenCache
    from mtfrun.data.images.image_cache import PIXELS, EncodedCache, PixelCache

    if (directory / TOKENS).exists():
        TokenCache.open(directory, anew=True)
    elif (directory / PIXELS).exists():
        PixelCache(directory, anew=True)
    else:
        EncodedCache(directory, anew=True)


def _choose_caches(flags: argparse.Namespace) -> list[Path]:
    from mtfrun.data.cache.directory import cache_directories

    directories = cache_directories(flags.cache_dir)
    return [x for x in directories if re.fullmatch(flags.tasks or ".*", x.parent.name)]


def _cache_name(directory: Path) -> str:
    return f"{directory.parent.name}/{directory.name}"


_CACHES = """\
Lists the caches of all data on this machine, with their sizes and last uses, or deletes them.

  mtfrun data caches
  mtfrun data caches --unused_days=30 --remove
  mtfrun data caches --tasks='wmt.*' --remove

--remove deletes the caches that the same flags list without it. They are rebuilt when a command
needs them. A command that is reading a cache continues, and a cache that is being built is not
deleted. Caches are in $MTFRUN_CACHE_DIR, by default ~/.cache/mtfrun; prepared datasets there are
not touched."""

_SECS_PER_DAY = 86_400


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


def _check_caches(flags: argparse.Namespace) -> None:
    _check_verify(flags)
    check_least(flags, 0, "unused_days")


def _run_caches(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data.cache.directory import last_use, remove_cache, resolve_cache_dir

    now = time.time()
    rows, total, busy = [], 0, 0
    for directory in _choose_caches(flags):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            used = last_use(directory)
            size = sum(path.stat().st_size for path in directory.iterdir())
            if now - used < flags.unused_days * _SECS_PER_DAY:
                continue
            if flags.remove and not remove_cache(directory):
                busy += 1
                continue
            total += size
            rows.append([_cache_name(directory), bytes_text(size), time_text(used)])
    if rows:
        print_lines(*table_lines(["cache", "size", "last use"], rows, terminal_columns()))
    done = "removed from" if flags.remove else "in"
    print(f"{len(rows)} cache(s), {bytes_text(total)}, {done} {resolve_cache_dir(flags.cache_dir)}")
    if busy:
        progress.note(progress.warning(f"{busy} cache(s) are being built, and stay"))
    return 0


COMMANDS = [
    Command("data cache", _CACHE, _run_cache, _add_cache_flags, _check_cache, model_dir="run"),
    Command(
        "data caches", _CACHES, _run_caches, _add_caches_flags, _check_caches, subject="nothing"
    ),
    Command("data verify", _VERIFY, _run_verify, _add_verify_flags, _check_verify),
]
