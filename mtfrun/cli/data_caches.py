"""The commands `data caches` and `data verify`: the caches of all data on this machine."""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

from mtfrun.cli.data_commands import print_caches
from mtfrun.cli.terminable import terminable
from mtfrun.data import DataError
from mtfrun.data.cache_choice import CacheChoice
from mtfrun.data.cache_directory import cache_directories, remove_cache, resolve_cache_dir
from mtfrun.data.cache_manifest import MANIFEST, DamagedCacheError, last_use
from mtfrun.data.images.image_cache import PIXELS, EncodedCache, PixelCache
from mtfrun.data.token_cache import TOKENS, TokenCache
from mtfrun.display import progress
from mtfrun.display.formats import bytes_text, time_text
from mtfrun.display.table import table_lines, terminal_columns

_SECS_PER_DAY = 86_400


@terminable()
def caches(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Lists the caches with their sizes, and deletes them with --remove."""
    now = time.time()
    rows, total, busy = [], 0, 0
    for directory in _chosen(flags):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            used = last_use(directory)
            size = sum(path.stat().st_size for path in directory.iterdir())
            if now - used < flags.unused_days * _SECS_PER_DAY:
                continue
            if flags.remove and not remove_cache(directory):
                busy += 1
                continue
            total += size
            rows.append([_name(directory), bytes_text(size), time_text(used)])
    for line in (
        table_lines(["cache", "size", "last use"], rows, terminal_columns()) if rows else ()
    ):
        print(line)
    done = "removed from" if flags.remove else "in"
    print(f"{len(rows)} cache(s), {bytes_text(total)}, {done} {resolve_cache_dir(flags.cache_dir)}")
    if busy:
        progress.note(progress.warning(f"{busy} cache(s) are being built, and stay"))
    return 0


@terminable()
def verify(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Checks caches against their checksums, and prints a line for each."""
    if flags.gin_file or flags.model_dir is not None:
        return print_caches(flags, CacheChoice(flags.tasks or ".*", flags.cache_dir, anew=True))
    damaged = []
    for directory in _chosen(flags):
        if not (directory / MANIFEST).exists():  # being built, or left by a killed build
            continue
        try:
            _compare(directory)
            print(f"{_name(directory)}: good", flush=True)
        except DamagedCacheError as error:
            damaged.append(_name(directory))
            print(f"{_name(directory)}: {error.reason}", flush=True)
    if damaged:
        raise DataError(
            f"{len(damaged)} cache(s) in {resolve_cache_dir(flags.cache_dir)} are damaged, the "
            f"first is {damaged[0]}: training builds them anew, or remove them"
        )
    return 0


def _chosen(flags: argparse.Namespace) -> list[Path]:
    """Returns the directories of the caches that --tasks selects."""
    directories = cache_directories(flags.cache_dir)
    return [x for x in directories if re.fullmatch(flags.tasks or ".*", x.parent.name)]


def _name(directory: Path) -> str:
    return f"{directory.parent.name}/{directory.name}"


def _compare(directory: Path) -> None:
    if (directory / TOKENS).exists():
        TokenCache.open(directory, anew=True)
    elif (directory / PIXELS).exists():
        PixelCache(directory, anew=True)
    else:
        EncodedCache(directory, anew=True)
