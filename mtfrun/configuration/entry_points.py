"""Entry points, with which the extras of mtfrun and other distributions add to it.

docs/extending.md says what an entry of each group names.
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

_OURS = "mtfrun."  # the beginning of the names of our groups
_GROUPS = (
    *("mtfrun.commands", "mtfrun.importers", "mtfrun.exporters", "mtfrun.gin", "mtfrun.hooks"),
    *("mtfrun.checkpoint_names", "mtfrun.inference_flags"),
)
_EXTRAS = "mtfrun.extras."


@functools.cache
def entry_points(group: str) -> Mapping[str, tuple[str, metadata.EntryPoint]]:
    """Returns the entry points of a group, and their distributions, by name; mtfrun's first.

    Raises:
      InputError: two distributions have an entry of the same name.
    """
    entries: dict[str, tuple[str, metadata.EntryPoint]] = {}
    for distribution, points in _by_distribution():
        for point in points.select(group=group):
            other, _ = entries.setdefault(point.name, (distribution, point))
            if other != distribution:
                raise InputError(
                    f"the distributions {other} and {distribution} both have an entry point "
                    f"{point.name!r} of the group {group}: uninstall one of them"
                )
    return entries


@functools.cache
def load_entry_points(group: str) -> Mapping[str, Any]:
    """Returns the objects of a group by name; a broken entry is a warning and is left out.

    An entry of an extra that imports a deleted extra is left out without a warning.
    """
    objects = {}
    for name, (_, point) in entry_points(group).items():
        try:
            objects[name] = point.load()
        except Exception as error:
            if not (isinstance(error, ModuleNotFoundError) and _EXTRAS in str(error.name)):
                warn_of_broken(group, name, f"{type(error).__name__}: {error}")
    return objects


def warn_of_broken(group: str, name: str, reason: str) -> None:
    """Warns that an entry point is left out, with the name of its distribution."""
    what = f"the distribution {entry_points(group)[name][0]} has a broken entry point {name!r}"
    line = "%s of the group %s, which is ignored: %s"
    logging.getLogger(__name__).warning(line, what, group, reason)


@functools.cache
def _by_distribution() -> list[tuple[str, metadata.EntryPoints]]:
    """Returns the entry points of installed distributions; of duplicates the first on the path.

    A folder is not trusted because a command runs in it: the working directory counts only if
    Python installs distributions there.
    """
    paths = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib")]
    directory = os.path.realpath(os.curdir)
    searched = sys.path
    if directory not in map(os.path.realpath, paths):
        searched = [path for path in sys.path if os.path.realpath(path or os.curdir) != directory]
    points: dict[str, metadata.EntryPoints] = {}
    for distribution in metadata.distributions(path=searched):
        # Parsing hundreds of distributions would take 20 ms.
        if _OURS in (distribution.read_text("entry_points.txt") or ""):
            points.setdefault(distribution.name, distribution.entry_points)
    for name, entries in points.items():
        for group in sorted(entries.groups):
            if group.startswith(_OURS) and group not in _GROUPS:
                line = "the distribution %s has entries of the unknown group %s; the groups are %s"
                logging.getLogger(__name__).warning(line, name, group, ", ".join(_GROUPS))
    return sorted(points.items(), key=lambda item: item[0] != "mtfrun")
