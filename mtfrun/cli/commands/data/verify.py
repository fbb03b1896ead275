from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtfrun.cli.command import Command
from mtfrun.cli.commands.data.cache import print_caches
from mtfrun.cli.commands.data.flags import cache_name, check_tasks, choose_caches
from mtfrun.errors import InputError

_DESCRIPTION = """\
Checks caches against the checksums of their files, which were recorded when they were built.

  mtfrun data verify
  mtfrun data verify --cache_dir=/data/cache --tasks='wmt.*'
  mtfrun data verify --gin_file=runs/quickstart.gin

Commands do the same when they read a cache for the first time on a machine, or after one of its
files has changed. Without a configuration all caches are checked, and a line for each says that it
is good, or what is wrong with it; then the exit code is 2. With a configuration its caches for
training and evaluation are checked, and damaged ones are rebuilt."""


def add_verify_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cache_dir", help="the directory of the caches", metavar="DIR")
    add(
        "--tasks",
        help="a regular expression for the names of tasks; by default all tasks",
        metavar="REGEX",
    )


def check_verify(flags: argparse.Namespace) -> None:
    check_tasks(flags)
    if flags.cache_dir == "":
        raise InputError("--cache_dir needs a name")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data import DataError
    from mtfrun.data.cache_directory import (
        MANIFEST,
        CacheChoice,
        DamagedCacheError,
        resolve_cache_dir,
    )

    if flags.gin_file or flags.model_dir is not None:
        return print_caches(flags, CacheChoice(flags.tasks or ".*", flags.cache_dir, anew=True))
    damaged = []
    for directory in choose_caches(flags):
        if not (directory / MANIFEST).exists():  # being built, or left by a killed build
            continue
        try:
            _compare(directory)
            print(f"{cache_name(directory)}: good", flush=True)
        except DamagedCacheError as error:
            damaged.append(cache_name(directory))
            print(f"{cache_name(directory)}: {error.reason}", flush=True)
    if damaged:
        raise DataError(
            f"{len(damaged)} cache(s) in {resolve_cache_dir(flags.cache_dir)} are damaged, the "
            f"first is {damaged[0]}: training builds them anew, or remove them"
        )
    return 0


def _compare(directory: Path) -> None:
    from mtfrun.data.images.image_cache import PIXELS, EncodedCache, PixelCache
    from mtfrun.data.token_cache import TOKENS, TokenCache

    if (directory / TOKENS).exists():
        TokenCache.open(directory, anew=True)
    elif (directory / PIXELS).exists():
        PixelCache(directory, anew=True)
    else:
        EncodedCache(directory, anew=True)


DATA_VERIFY = Command("data verify", _DESCRIPTION, add_verify_flags, check_verify, run)
