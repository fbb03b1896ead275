"""Entry points, with which the extras of mtfrun and other distributions add to it.

The groups are "mtfrun.commands", "mtfrun.importers", "mtfrun.exporters", "mtfrun.gin",
"mtfrun.hooks" and "mtfrun.inference_flags"; docs/extending.md says what an entry of each names.
"""

from __future__ import annotations

import functools
import logging
import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from mtfrun.errors import InputError

_OURS = "mtfrun."  # the beginning of the names of our groups


class Entry(NamedTuple):
    """An entry point, and the name of the distribution that has it."""

    distribution: str
    point: metadata.EntryPoint


@functools.cache
def entry_points(group: str) -> Mapping[str, Entry]:
    """Returns the entry points of a group by name, mtfrun's first.

    Raises:
      InputError: two distributions have an entry of the same name.
    """
    entries: dict[str, Entry] = {}
    for entry in sorted(_all(), key=lambda x: x.distribution != "mtfrun"):
        if entry.point.group != group:
            continue
        other = entries.setdefault(entry.point.name, entry)
        if other.distribution != entry.distribution:
            raise InputError(
                f"the distributions {other.distribution} and {entry.distribution} both have an "
                f"entry point {entry.point.name!r} of the group {group}: uninstall one of them"
            )
    return entries


@functools.cache
def load_entry_points(group: str) -> Mapping[str, Any]:
    """Returns the objects of a group by name; a broken entry is a warning and is left out."""
    objects = {}
    for name, (distribution, point) in entry_points(group).items():
        try:
            objects[name] = point.load()
        except Exception as error:
            what = f"the distribution {distribution} has a broken entry point {name!r}"
            reason = f"which is ignored: {type(error).__name__}: {error}"
            logging.getLogger(__name__).warning("%s of the group %s, %s", what, group, reason)
    return objects


def distribution_of(group: str, name: str) -> str:
    return entry_points(group)[name].distribution


@functools.cache
def _all() -> tuple[Entry, ...]:
    """Returns the entry points of installed distributions; of duplicates the first on the path.

    A folder is not trusted because a command runs in it: the working directory counts only if
    Python installs distributions there.
    """
    by_distribution: dict[str, list[Entry]] = {}
    for distribution in metadata.distributions(path=_installation_paths()):
        if _OURS not in (distribution.read_text("entry_points.txt") or ""):
            continue  # parsing hundreds of distributions would take 20 ms
        name = distribution.name  # read once: each time it parses the distribution's metadata
        entries = [Entry(name, x) for x in distribution.entry_points if x.group.startswith(_OURS)]
        if entries:
            by_distribution.setdefault(name, entries)
    return tuple(entry for entries in by_distribution.values() for entry in entries)


def _installation_paths() -> list[str]:
    paths = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib")]
    directory = os.path.realpath(os.curdir)
    if directory in map(os.path.realpath, paths):
        return sys.path
    return [path for path in sys.path if os.path.realpath(path or os.curdir) != directory]
