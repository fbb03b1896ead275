from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

from mtfrun.cli import command as cli
from mtfrun.display import progress
from mtfrun.display.formats import bytes_text, time_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import print_table
from mtfrun.errors import InputError

_DESCRIPTION = """\
Builds the caches of a configuration's texts, or lists, checks and deletes caches.

  mtfrun data cache --gin_file=runs/quickstart.gin
  mtfrun data cache --gin_file=my.gin --tasks='wmt.*' --cache_dir=/data/cache --overwrite
  mtfrun data cache --list
  mtfrun data cache --list --unused_days=30 --remove
  mtfrun data cache --verify --tasks='wmt.*'
  mtfrun data cache --verify --gin_file=runs/quickstart.gin

Training builds the caches that it lacks: the ids of its training and its evaluation split. To build
them is only needed on another machine or at another time. For every task and split a line says how
many examples, tokens and bytes there are, how long it took, and where the cache is. A cache belongs
to its source, preprocessors and vocabulary; if one changes, another cache is built.

Caches are in $MTFRUN_CACHE_DIR, by default ~/.cache/mtfrun, or in --cache_dir;
MTFRUN_CACHE_DIR=/data/cache mtfrun train ... then trains from it.

--list shows the caches of all data on this machine, with their sizes and last uses; --remove
deletes those that it shows, but for those that are being built. Prepared datasets are not touched.

--verify compares caches with their checksums. A line for each says that it is good, or describes
the damage; then the exit code is 2. With a configuration damaged caches are rebuilt."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = "a regular expression for the names of tasks; by default all tasks"
    add("--tasks", type=cli.pattern, help=text, metavar="REGEX")
    text = "the directory of the caches; the second name is T5's"
    add("--cache_dir", "--output_cache_dir", help=text, metavar="DIR")
    add("--overwrite", action="store_true", help="build again what exists")
    add("--list", action="store_true", help="list the caches of all data")
    add("--remove", action="store_true", help="delete the listed caches")
    text = "list only caches that nothing has opened for N days"
    add("--unused_days", type=cli.at_least(0, float), help=text)
    add("--verify", action="store_true", help="check caches")


def _check(flags: argparse.Namespace) -> None:
    is_configured = flags.gin_file or flags.model_dir is not None
    if flags.list and (flags.verify or flags.overwrite or is_configured):
        raise InputError("--list shows all caches: leave --verify, --overwrite and the run out")
    if (flags.remove or flags.unused_days is not None) and not flags.list:
        raise InputError("--remove and --unused_days are of --list: give it as well")
    if flags.overwrite and flags.verify:
        raise InputError("--verify rebuilds damaged caches alone: leave --overwrite out")
    if not (flags.list or flags.verify):
        cli.require_configuration(flags)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    if flags.list:
        return _list_caches(flags)
    is_configured = flags.gin_file or flags.model_dir is not None
    return _build_caches(flags) if is_configured else _verify_all(flags)


def _build_caches(flags: argparse.Namespace) -> int:
    from mtfrun.data.cache.directory import CacheChoice

    choice = CacheChoice(flags.tasks or ".*", flags.cache_dir, flags.overwrite, anew=flags.verify)
    configured = cli.configured_data(flags)
    data, splits = configured.data, configured.splits
    if not data.cached_tasks:
        raise InputError(f"{type(data).__name__} is read without a cache: there is none to build")
    if not any(map(choice.includes, data.cached_tasks)):
        names = ", ".join(data.cached_tasks)
        raise InputError(f"--tasks={flags.tasks} matches no task; there are {names}")
    for split in splits:
        start = time.monotonic()
        for cached in data.caches(split, choice):
            secs = time.monotonic() - start
            counts = ", ".join(f"{number:,} {name}" for name, number in cached.counts.items())
            title = f"{cached.title} {cached.split}"
            print_lines(f"{title}: {counts}, {secs:.1f} s, {cached.directory}")
            start = time.monotonic()
    return 0


def _verify_all(flags: argparse.Namespace) -> int:
    from mtfrun.data import DataError
    from mtfrun.data.cache.directory import MANIFEST, DamagedCacheError, resolve_cache_dir

    damaged = []
    for directory in _choose_caches(flags):
        if not (directory / MANIFEST).exists():  # being built, or left by a killed build
            continue
        result = "good"
        try:
            _compare(directory)
        except DamagedCacheError as error:
            damaged.append(_cache_name(directory))
            result = error.reason
        print(f"{_cache_name(directory)}: {result}", flush=True)
    if damaged:
        what = f"{len(damaged)} cache(s) in {resolve_cache_dir(flags.cache_dir)} are damaged"
        raise DataError(f"{what}, the first is {damaged[0]}: --remove deletes caches")
    return 0


def _compare(directory: Path) -> None:
    from mtfrun.data.cache.tokens import TOKENS, TokenCache
    from mtfrun.data.images.image_cache import ImageCache

    open_cache = TokenCache.open if (directory / TOKENS).exists() else ImageCache
    open_cache(directory, anew=True)


def _choose_caches(flags: argparse.Namespace) -> list[Path]:
    from mtfrun.data.cache.directory import cache_directories

    directories = cache_directories(flags.cache_dir)
    return [x for x in directories if re.fullmatch(flags.tasks or ".*", x.parent.name)]


def _cache_name(directory: Path) -> str:
    return f"{directory.parent.name}/{directory.name}"


_SECS_PER_DAY = 86_400


def _list_caches(flags: argparse.Namespace) -> int:
    from mtfrun.data.cache.directory import last_use, remove_cache, resolve_cache_dir

    now = time.time()
    rows, total, busy = [], 0, 0
    for directory in _choose_caches(flags):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            used = last_use(directory)
            size = sum(path.stat().st_size for path in directory.iterdir())
            if now - used < (flags.unused_days or 0) * _SECS_PER_DAY:
                continue
            if flags.remove and not remove_cache(directory):
                busy += 1
                continue
            total += size
            rows.append([_cache_name(directory), bytes_text(size), time_text(used)])
    if rows:
        print_table(["cache", "size", "last use"], rows)
    done = "removed from" if flags.remove else "in"
    print(f"{len(rows)} cache(s), {bytes_text(total)}, {done} {resolve_cache_dir(flags.cache_dir)}")
    if busy:
        progress.note(progress.warning(f"{busy} cache(s) are being built, and stay"))
    return 0


COMMANDS = [cli.Command("data cache", _DESCRIPTION, run, _add_flags, _check, model_dir="run")]
