"""Which variables a rule applies to, by regular expressions over their paths.

A pattern applies to a path where `re.search` finds it: `"norm"` means every path with these letters
in it, `"^encoder/"` one module, `"/bias$"` the last part.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError


class PatternError(InputError):
    """A pattern that is no regular expression, or that no variable matches."""


def matching_paths(paths: Iterable[str], patterns: Sequence[str], purpose: str) -> set[str]:
    """Returns the paths in which any of the patterns is found.

    A pattern that is found in none raises PatternError, for it is nearly always a typing error
    whose effect would not be noticed. `purpose` names the argument in the message.
    """
    paths = list(paths)
    return {path for pattern in patterns for path in _matches(paths, pattern, purpose)}


def trainable_variables(
    variables: Mapping[str, mtf.Variable], frozen: Sequence[str] = ()
) -> dict[str, mtf.Variable]:
    """Returns the variables to be trained: those marked so, less those that `frozen` matches.

    The others then need no gradients and get no slots.
    """
    trainable = {path: variable for path, variable in variables.items() if variable.trainable}
    left_out = matching_paths(trainable, frozen, "frozen")
    kept = {path: variable for path, variable in trainable.items() if path not in left_out}
    if not kept:
        raise PatternError(f"frozen={list(frozen)!r} matches every variable; nothing is left")
    return kept


def learning_rate_factors(paths: Iterable[str], factors: Mapping[str, float]) -> dict[str, float]:
    """Returns the factor of every path: that of the first pattern found in it, otherwise 1.

    `factors` maps patterns to factors, `{"^embedding": 0.1, "norm": 2.0}`.
    """
    paths = list(paths)
    result = dict.fromkeys(paths, 1.0)
    for pattern, factor in reversed(list(factors.items())):
        result.update(dict.fromkeys(_matches(paths, pattern, "learning_rate_factors"), factor))
    return result


def _matches(paths: list[str], pattern: str, purpose: str) -> list[str]:
    try:
        found = [path for path in paths if re.search(pattern, path)]
    except re.error as error:
        raise PatternError(
            f"{purpose}: {pattern!r} is not a regular expression: {error}"
        ) from error
    if not found:
        # Half a path is often typed, so parts are compared as well as the whole.
        names = {part: path for path in paths for part in [*path.split("/"), path]}
        near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
        hint = f"; the nearest is {names[near[0]]!r}" if near else ""
        raise PatternError(f"{purpose}: {pattern!r} matches none of {len(paths)} variables{hint}")
    return found
