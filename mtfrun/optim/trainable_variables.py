"""The variables that training updates: trainable and not frozen, by patterns.

For patterns of paths see `mtf.find_paths`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.optim.schedules import Schedule

Factor: TypeAlias = "float | Schedule"
"""A learning rate's factor: a number, or a schedule that multiplies the common schedule."""


def matching_paths(paths: Iterable[str], patterns: Sequence[str], setting: str) -> set[str]:
    """Returns the paths in which any of the patterns is found; see `mtf.find_paths`."""
    paths = list(paths)
    by_pattern = (mtf.find_paths(paths, pattern, "variables", setting) for pattern in patterns)
    return {path for matches in by_pattern for path in matches}


def trainable_variables(
    variables: Mapping[str, mtf.Variable], frozen: Sequence[str] = ()
) -> dict[str, mtf.Variable]:
    """Returns the trainable variables without frozen ones, which get no gradients and no slots."""
    trainable = {path: variable for path, variable in variables.items() if variable.trainable}
    frozen_paths = matching_paths(trainable, frozen, "frozen")
    trained = {path: variable for path, variable in trainable.items() if path not in frozen_paths}
    if not trained:
        raise InputError(f"frozen={list(frozen)!r} matches every variable; nothing is left")
    return trained


def learning_rate_factors(paths: Iterable[str], factors: Mapping[str, Factor]) -> dict[str, Factor]:
    """Returns the factor of every path: of the first pattern found in it, otherwise 1."""
    paths, setting = list(paths), "learning_rate_factors"
    result: dict[str, Factor] = dict.fromkeys(paths, 1.0)
    for pattern, factor in reversed(list(factors.items())):
        matches = mtf.find_paths(paths, pattern, "variables", setting)
        result.update(dict.fromkeys(matches, factor))
    return result
