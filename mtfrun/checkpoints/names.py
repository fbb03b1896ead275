"""Names of a model's variables in checkpoints: ours, those that extras know, and a user's.

An entry point of the group "mtfrun.checkpoint_names" names a module with the functions of
`CheckpointNames`. A user gives further names: `InitCheckpoint.names`.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from mtfrun.checkpoints.manifest import tensor_key
from mtfrun.configuration.entry_points import load_entry_points
from mtfrun.errors import did_you_mean
from mtfrun.errors.untrusted import JsonError, read_json
from mtfrun.files.errors import RunDirError, reason

Names: TypeAlias = Mapping[str, str | Mapping[str, str | int]]
"""Names in a checkpoint, by the path of a variable of ours or a regular expression of paths.

A name may have the groups of the expression: "transformer/h_\\1/scale". In its place may stand
{"name": ..., "dims": ..., "entry": ...}, see `Source`.
"""

_FIELDS = {"name", "dims", "entry"}


class Source(NamedTuple):
    """Place of a variable's value in a checkpoint.

    Attributes:
      pattern: a regular expression that matches the full name of a variable.
      entry: index into that variable's first dimension, as text; None for the complete value.
      dims: names of the dimensions after indexing, with spaces, where their order may differ; None
        where only neighbouring dimensions of ours may be merged there.
    """

    pattern: str
    entry: str | None = None
    dims: str | None = None


class CheckpointNames(Protocol):
    """The names that another program gives to variables."""

    def sources_of(self, path: str, paths: Collection[str]) -> Iterable[Source]:
        """Returns where the value of our variable `path`, of a model's `paths`, may be."""

    def is_slot(self, name: str) -> bool:
        """Returns whether a name is a slot of an optimizer."""


def sources_of(path: str, paths: Collection[str]) -> list[Source]:
    """Returns where a variable's value may be, in the order in which it is looked for."""
    # Also as `mtfrun export --format=tensorflow` writes it.
    sources = [Source(re.escape(tensor_key(f"model/{path}"))), Source(re.escape(path))]
    return sources + [x for names in _programs() for x in names.sources_of(path, paths)]


def is_bookkeeping(name: str) -> bool:
    """Whether a checkpoint's variable is not a parameter: the step, a slot, an average, ..."""
    return bool(
        is_step(name)
        or re.search(r"^_CHECKPOINTABLE|^save_counter/", name)
        or name.startswith(("variables/optimizer.S", "variables/averages.S"))
        or name.startswith("variables/model.Sloss_terms.S")  # beside the model, in training only
        or any(names.is_slot(name) for names in _programs())
    )


def is_step(name: str) -> bool:
    return name in ("global_step", tensor_key("step"))


def _programs() -> Iterable[CheckpointNames]:
    return load_entry_points("mtfrun.checkpoint_names").values()


def read_names(names: Names | str, what: str) -> Names:
    if isinstance(names, str):
        what = f"{what}={names}"
        try:
            names = read_json(pathlib.Path(names).expanduser())
        except JsonError as error:
            raise RunDirError(f"{what} is not JSON: {error}") from error
        except (OSError, ValueError) as error:
            raise RunDirError(f"{what}: cannot be read: {reason(error)}") from error
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
        try:
            re.compile(key)
        except re.error as error:
            raise RunDirError(f"{what}: {key} is not a regular expression: {error}") from None
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
    for key in sorted(names, key=lambda key: key not in paths):  # paths come before expressions
        by_name: dict[tuple[str, str | None], str] = {}  # our path by name and entry
        pattern = re.compile(re.escape(key) if key in paths else key)
        matches = [match for path in paths if (match := pattern.fullmatch(path))]
        if not matches:
            raise RunDirError(
                f"{what}: {key} matches no variable of the model{did_you_mean(key, paths)}"
            )
        for match in matches:
            path = match[0]
            source = _expand(names[key], match, f"{what}: {key}")
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
            if path not in keys:
                keys[path] = key
                sources[path] = source._replace(pattern=re.escape(name))
            elif keys[path] not in paths:
                raise RunDirError(f"{what}: both {keys[path]} and {key} match {path}")
    return sources


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
