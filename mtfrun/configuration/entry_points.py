"""Entry points, with which the extras of mtfrun and other distributions add to it.

The groups are "mtfrun.commands", "mtfrun.importers", "mtfrun.exporters", "mtfrun.gin" and
"mtfrun.hooks"; docs/extending.md says what an entry of each names.
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
from typing import Any

from mtfrun.errors import InputError


@functools.cache
def entry_points(group: str) -> Mapping[str, metadata.EntryPoint]:
    """Returns the entry points of a group by name, those of mtfrun first.

    Raises:
      InputError: two distributions have an entry of the same name.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for entry in sorted(_all(), key=lambda x: _distribution(x) != "mtfrun"):
        if entry.group != group:
            continue
        other = found.setdefault(entry.name, entry)
        if _distribution(other) != _distribution(entry):
            raise InputError(
                f"the distributions {_distribution(other)} and {_distribution(entry)} both have an "
                f"entry point {entry.name!r} of the group {group}: uninstall one of them"
            )
    return found


@functools.cache
def load_entry_points(group: str) -> Mapping[str, Any]:
    """Returns the objects of a group by name; a broken entry is a warning and is left out."""
    objects = {}
    for name, entry in entry_points(group).items():
        try:
            objects[name] = entry.load()
        except Exception as error:
            logging.getLogger(__name__).warning(
                "the distribution %s has a broken entry point %r of the group %s, which is "
                "ignored: %s: %s",
                _distribution(entry),
                name,
                group,
                type(error).__name__,
                error,
            )
    return objects


def distribution_of(group: str, name: str) -> str:
    return _distribution(entry_points(group)[name])


def _distribution(entry: metadata.EntryPoint) -> str:
    assert entry.dist is not None
    return str(entry.dist.name)


@functools.cache
def _all() -> tuple[metadata.EntryPoint, ...]:
    """Returns all entry points of installed distributions, the first one of each distribution.

    A folder is not trusted because a command runs in it: the working directory counts only if
    Python installs distributions there.
    """
    by_distribution: dict[str, tuple[metadata.EntryPoint, ...]] = {}
    for distribution in metadata.distributions(path=_installation_paths()):
        if "mtfrun." not in (distribution.read_text("entry_points.txt") or ""):
            continue  # parsing those of hundreds of distributions would take 20 ms
        entries = distribution.entry_points
        if any(entry.group.startswith("mtfrun.") for entry in entries):
            by_distribution.setdefault(distribution.name, tuple(entries))
    return tuple(entry for entries in by_distribution.values() for entry in entries)


def _installation_paths() -> list[str]:
    site_paths = [
        *site.getsitepackages(),
        site.getusersitepackages(),
        sysconfig.get_path("purelib"),
    ]
    installed = {os.path.realpath(path) for path in site_paths}
    here = os.path.realpath(os.curdir)
    return [
        path
        for path in sys.path
        if os.path.realpath(path or os.curdir) != here or here in installed
    ]
