"""The error of data that is missing or malformed, or needs a package."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from mtfrun.errors import InputError, did_you_mean, install_command


class DataError(InputError):
    """Data is missing or malformed; the message is one line with the remedy."""


def lacks(owner: object, kind: str, name: str, names: Collection[str]) -> str:
    """Returns 'OWNER has no KIND "NAME"; it has NAMES', and the nearest of them."""
    listed = ", ".join(names) or "none"
    return f'{owner} has no {kind} "{name}"; it has {listed}{did_you_mean(name, names)}'


def import_package(name: str, user: str, *, or_else: str = "") -> Any:
    """Imports an optional package; a DataError says that `user` needs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        command = install_command(name)
        raise DataError(f"{user} needs the package {name}: {command}{or_else}") from error
