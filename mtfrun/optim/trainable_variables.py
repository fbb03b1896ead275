"""The variables that training updates: all trainable ones but those that are frozen, by patterns.

A pattern selects the paths in which `re.search` finds it: `"norm"` every path that contains these
letters, `"^encoder/"` one module, `"/bias$"` every path with that last part.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.optim.schedules import Schedule

Factor: TypeAlias = "float | Schedule"
"""Of a learning rate: a number, or a schedule that multiplies the common one."""


class PatternError(InputError):
    """A pattern is not a regular expression, or no variable matches it."""


def matching_paths(paths: Iterable[str], patterns: Sequence[str], purpose: str) -> set[str]:
    """Returns the paths in which any of the patterns is found; `purpose` is for the error.

    Raises:
      PatternError: a pattern is not a regular expression, or is in no path (often a typing error).
    """
    paths = list(paths)
    return {path for pattern in patterns for path in _matches(paths, pattern, purpose)}


def trainable_variables(
    variables: Mapping[str, mtf.Variable], frozen: Sequence[str] = ()
) -> dict[str, mtf.Variable]:
    """Returns the trainable variables without frozen ones, which get no gradients and no slots."""
    trainable = {path: variable for path, variable in variables.items() if variable.trainable}
    frozen_paths = matching_paths(trainable, frozen, "frozen")
    trained = {path: variable for path, variable in trainable.items() if path not in frozen_paths}
    if not trained:
        raise PatternError(f"frozen={list(frozen)!r} matches every variable; nothing is left")
    return trained


def learning_rate_factors(paths: Iterable[str], factors: Mapping[str, Factor]) -> dict[str, Factor]:
    """Returns the factor of every path: of the first pattern found in it, otherwise 1."""
    paths = list(paths)
    result: dict[str, Factor] = dict.fromkeys(paths, 1.0)
    for pattern, factor in reversed(list(factors.items())):
        result.update(dict.fromkeys(_matches(paths, pattern, "learning_rate_factors"), factor))
    return result


def _matches(paths: list[str], pattern: str, purpose: str) -> list[str]:
    try:
        matches = [path for path in paths if re.search(pattern, path)]
    except re.error as error:
        raise PatternError(
            f"{purpose}: {pattern!r} is not a regular expression: {error}"
        ) from error
    if not matches:
        # Often only a part of a path is typed, so parts are compared as well as full paths.
        names = {part: path for path in paths for part in [*path.split("/"), path]}
        near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
        hint = f"; the nearest is {names[near[0]]!r}" if near else ""
        raise PatternError(f"{purpose}: {pattern!r} matches none of {len(paths)} variables{hint}")
    return matches
