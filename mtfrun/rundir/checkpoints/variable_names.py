"""Names that a user has for a model's variables in a checkpoint: `InitCheckpoint.names`."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from mtfrun.errors import did_you_mean
from mtfrun.rundir.checkpoints.mesh_tensorflow_names import Source
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.untrusted import JsonError, read_json

Names: TypeAlias = Mapping[str, str | Mapping[str, str | int]]
"""Names in a checkpoint, by the path of a variable of ours or a regular expression of paths.

A name may have the groups of the expression: "transformer/h_\\1/scale". In its place may stand
{"name": ..., "dims": ..., "entry": ...}, see `Source`.
"""

_FIELDS = {"name", "dims", "entry"}


def read_names(names: Names | str, what: str) -> Names:
    if isinstance(names, str):
        what = f"{what}={names}"
        names = _of_file(pathlib.Path(names).expanduser(), what)
    if not isinstance(names, Mapping):
        raise RunDirError(f"{what}: names are a dictionary, our paths to the checkpoint's names")
    for key, entry in names.items():
        fields = {"name": entry} if isinstance(entry, str) else entry
        is_valid = isinstance(fields, Mapping) and "name" in fields and set(fields) <= _FIELDS
        if not is_valid or not all(isinstance(x, str | int) for x in fields.values()):
            raise RunDirError(
                f'{what}: {key}: give a name, or {{"name": ..., "dims": ..., "entry": ...}}, '
                f"not {entry!r}"
            )
        _compile(key, what)
    return names


def sources_in_names(
    names: Names, paths: Collection[str], stored: Collection[str], what: str
) -> dict[str, Source]:
    """Returns sources by our path.

    RunDirError if a key matches no variable, or one that another key matches too; a name is not in
    the checkpoint, or one key gives it to two variables.
    """
    sources: dict[str, Source] = {}
    keys: dict[str, str] = {}
    for key, entry in names.items():
        by_name: dict[tuple[str, str | None], str] = {}  # our path by name and entry
        pattern = _compile(key, what)
        matches = {path: match for path in paths if (match := pattern.fullmatch(path))}
        if key in paths:  # a path is not taken for an expression
            matches = {key: matches.get(key) or _whole(key)}
        if not matches:
            raise RunDirError(
                f"{what}: {key} matches no variable of the model{did_you_mean(key, paths)}"
            )
        for path, match in matches.items():
            source = _expand(entry, match, f"{what}: {key}")
            name = source.pattern
            if name not in stored:
                near = did_you_mean(name, stored)
                raise RunDirError(f"{what}: {name}, for {path}, is not in the checkpoint{near}")
            other = by_name.setdefault((name, source.entry), path)
            if other != path:
                raise RunDirError(
                    f"{what}: {key} gives {name} to both {other} and {path}: use a group of the "
                    r"expression in the name, as in \1"
                )
            if path in keys and key not in paths:
                if keys[path] in paths:
                    continue  # a path itself comes before expressions
                raise RunDirError(f"{what}: both {keys[path]} and {key} match {path}")
            keys[path] = key
            sources[path] = source._replace(pattern=re.escape(name))
    return sources


def _of_file(path: pathlib.Path, what: str) -> Any:
    try:
        return read_json(path)
    except JsonError as error:
        raise RunDirError(f"{what} is not JSON: {error}") from error
    except (OSError, ValueError) as error:
        raise RunDirError(f"{what}: cannot be read: {reason(error)}") from error


def _compile(key: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(key)
    except re.error as error:
        raise RunDirError(f"{what}: {key} is not a regular expression: {error}") from None


def _whole(path: str) -> re.Match[str]:
    match = re.fullmatch(re.escape(path), path)
    assert match is not None
    return match


def _expand(entry: Any, match: re.Match[str], what: str) -> Source:
    """Returns an entry's name, with the groups of the match; not yet as a pattern."""
    fields = {"name": entry} if isinstance(entry, str) else entry
    try:
        texts = {name: match.expand(str(value)) for name, value in fields.items()}
        number = texts.get("entry")
        if number is not None:
            int(number)
    except (re.error, IndexError, ValueError) as error:
        remedy = "a group of the expression is \\1, and an entry is a number"
        raise RunDirError(f"{what}: {error}; {remedy}") from None
    return Source(texts["name"], texts.get("entry"), texts.get("dims"))
