"""Where gin files are found: the working directory, the search paths, those of the package."""

from __future__ import annotations

import glob
import os
import pathlib
import re
from collections.abc import Sequence

import mtfrun
from mtfrun.cli.errors import ConfigError
from mtfrun.errors import did_you_mean

SHIPPED = os.path.join(os.path.dirname(os.path.abspath(mtfrun.__file__)), "gin")


def find_gin_file(name: str, search_paths: Sequence[str] = ()) -> str | None:
    """Returns the path of the first file of that name, or None."""
    for directory in ("", *search_paths, SHIPPED):
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            return path
    return None


def require_gin_file(name: str, search_paths: Sequence[str] = ()) -> str:
    """Returns the path of the first file of that name.

    Raises:
      ConfigError: there is none.
    """
    path = find_gin_file(name, search_paths)
    if path is None:
        if os.path.isdir(name):
            raise ConfigError(f"gin file {name} is a directory: name a file in it")
        searched = ", ".join(["the working directory", *search_paths, "the files of the package"])
        raise ConfigError(
            f"gin file {name} does not exist (searched: {searched})"
            f"{did_you_mean(name, [*shipped_gin_files(), *_neighbours(name)])}"
        )
    return path


def shipped_gin_files() -> list[str]:
    """Returns the names of the files in the package, such as "models/lm_small.gin"."""
    # The directory is a link in a checkout, whose contents glob lists below the link's own name.
    paths = glob.glob(os.path.join(SHIPPED, "**", "*.gin"), recursive=True)
    return sorted(os.path.relpath(path, SHIPPED) for path in paths)


def shipped_files_with(macro: str) -> list[str]:
    """Returns the names of the files in the package that give a macro a value."""
    binding = re.compile(rf"^{re.escape(macro)} *=", re.MULTILINE)
    names = shipped_gin_files()
    return [n for n in names if binding.search(pathlib.Path(SHIPPED, n).read_text("utf-8"))]


def _neighbours(name: str) -> list[str]:
    directory = os.path.dirname(name)
    try:
        return [os.path.join(directory, other) for other in os.listdir(directory or ".")]
    except OSError:
        return []
