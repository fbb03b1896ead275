from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence

from mtfrun.cli.command import Command
from mtfrun.cli.commands.data.flags import cache_name, choose_caches
from mtfrun.cli.commands.data.verify import add_verify_flags, check_verify
from mtfrun.display import progress
from mtfrun.display.formats import bytes_text, time_text
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError

_DESCRIPTION = """\
Lists the caches of all data on this machine, with their sizes and last uses, or deletes them.

  mtfrun data caches
  mtfrun data caches --unused_days=30 --remove
  mtfrun data caches --tasks='wmt.*' --remove

--remove deletes the caches that the same flags list without it. They are rebuilt when a command
needs them. A command that is reading a cache continues, and a cache that is being built is not
deleted. Caches are in $MTFRUN_CACHE_DIR, by default ~/.cache/mtfrun; prepared datasets there are
not touched."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_verify_flags(parser)
    add = parser.add_argument
    add("--remove", action="store_true", help="delete the listed caches")
    add(
        "--unused_days",
        type=float,
        default=0.0,
        help="only caches that nothing has opened for N days",
        metavar="N",
    )


def _check(flags: argparse.Namespace) -> None:
    check_verify(flags)
    if not flags.unused_days >= 0:
        raise InputError(f"--unused_days={flags.unused_days:g} must be at least 0")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data.cache_directory import last_use, remove_cache, resolve_cache_dir

    now = time.time()
    rows, total, busy = [], 0, 0
    for directory in choose_caches(flags):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            used = last_use(directory)
            size = sum(path.stat().st_size for path in directory.iterdir())
            if now - used < flags.unused_days * _SECS_PER_DAY:
                continue
            if flags.remove and not remove_cache(directory):
                busy += 1
                continue
            total += size
            rows.append([cache_name(directory), bytes_text(size), time_text(used)])
    for line in (
        table_lines(["cache", "size", "last use"], rows, terminal_columns()) if rows else ()
    ):
        print(line)
    done = "removed from" if flags.remove else "in"
    print(f"{len(rows)} cache(s), {bytes_text(total)}, {done} {resolve_cache_dir(flags.cache_dir)}")
    if busy:
        progress.note(progress.warning(f"{busy} cache(s) are being built, and stay"))
    return 0


_SECS_PER_DAY = 86_400
DATA_CACHES = Command(
    "data caches",
    _DESCRIPTION,
    _add_flags,
    _check,
    run,
    is_configured=False,
    is_of_run=False,
)
