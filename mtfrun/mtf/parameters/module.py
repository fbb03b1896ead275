"""Modules: objects with variables, named by attribute paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from mtfrun.errors import InputError, ShapeError, did_you_mean, list_some
from mtfrun.mtf.parameters.variables import Variable


class Module(tf.Module):  # type: ignore[misc]
    """An object with variables and sub-modules in its attributes, lists and dictionaries.

    Checkpoints, reports and random keys use paths such as "decoder/blocks/0/attention/query".
    """

    def __init__(self) -> None:
        super().__init__()
        self._path: str | None = None

    @property
    def path(self) -> str:
        """The attribute path from the root, "" for the root; an error before `mtf.initialize`."""
        if self._path is None:
            raise ShapeError(f"{type(self).__name__} has no path yet: call mtf.initialize first")
        return self._path

    def named_variables(self) -> dict[str, Variable]:
        """Returns all variables below this module by their attribute path."""
        return {path: x for path, x in _walk(self, "") if isinstance(x, Variable)}

    def named_modules(self) -> dict[str, Module]:
        """Returns this module ("") and all modules below it by their attribute path."""
        return {path: x for path, x in _walk(self, "") if isinstance(x, Module)}


def initialize(root: Any, seed: int = 0) -> None:
    """Gives every module and variable below `root` its path, and every variable its initial value.

    The value depends on `seed` and the path alone, not on the layout. Variables that have a value
    (shared with another root) keep it and their path. The root may be a nested list or dictionary.
    """
    assign_paths(root)
    for path, x in _walk(root, ""):
        if isinstance(x, Variable) and not x.is_initialized:
            x.initialize(seed, path)


def assign_paths(root: Any) -> None:
    """Gives modules and variables their paths, without storage; a ShapeError if two are equal."""
    paths = set()
    for path, x in _walk(root, ""):
        if path in paths:
            raise ShapeError(
                f"two parts of {type(root).__name__} have the path '{path}': keys of dictionaries "
                "must be different texts, not empty and without '/'"
            )
        paths.add(path)
        if isinstance(x, Module):
            x._path = path
        elif not x.is_initialized:
            x.path = path


def _walk(root: Any, prefix: str, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    seen = set() if seen is None else seen
    if isinstance(root, (Module, Variable)):
        if id(root) in seen:
            return  # tied: the first path is its name
        seen.add(id(root))
        yield prefix, root
    children: Mapping[Any, Any] = {}
    if isinstance(root, Module):
        ignored = tf.Module._TF_MODULE_IGNORED_PROPERTIES
        children = {name: value for name, value in vars(root).items() if name not in ignored}
    elif isinstance(root, Mapping):
        children = root
    elif isinstance(root, (list, tuple)):
        children = dict(enumerate(root))
    elif isinstance(root, Variable):
        children = root.parts
    for name, child in children.items():
        if isinstance(child, (Module, Variable, Mapping, list, tuple)):
            yield from _walk(child, f"{prefix}/{name}" if prefix else str(name), seen)


def find_paths(paths: Iterable[str], pattern: str, what: str, setting: str) -> list[str]:
    """Returns the paths that `re.search` matches, at least one, else an InputError.

    `re.search` finds "norm" in every path that contains these letters, "^encoder/" in one module,
    "/bias$" in every path with that last part. `what` and `setting` name both in the message.
    """
    paths = list(paths)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{setting}={pattern!r} is not a regular expression: {error}") from None
    matches = [path for path in paths if expression.search(path)]
    if not matches:
        last_parts = {part: path for path in paths for part in [*path.split("/"), path]}
        words = re.findall(r"\w+", pattern)
        near = [path for path in paths if any(word in path for word in words)]
        # One of each kind: blocks have the same paths but for their numbers.
        kinds = list({re.sub(r"/\d+/", "//", path): path for path in near or paths}.values())
        hint = did_you_mean(max(words, key=len, default=""), last_parts)
        raise InputError(
            f"{setting}={pattern!r} is in none of the {len(paths)} paths of {what}{hint}: "
            f"there are {list_some(kinds, 6)}"
        )
    return matches
