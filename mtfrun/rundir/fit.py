"""Comparison of a checkpoint's variables with those of a model."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun.rundir.errors import RunDirError, nearest
from mtfrun.rundir.manifest import VariableSpec

_NAMED = 5
"""How many variables of each kind an error names; a wrong model differs in hundreds."""


def check_fit(
    name: str,
    saved: Mapping[str, VariableSpec],
    wanted: Mapping[str, VariableSpec],
    *,
    subset: bool,
) -> None:
    """Raises one RunDirError that lists every difference between `saved` and `wanted` variables.

    Args:
      name: the checkpoint's name, for the message.
      saved: the variables in the checkpoint, by path.
      wanted: the variables to restore, by path.
      subset: the checkpoint may hold further variables (evaluation needs no optimizer slots).

    Raises:
      RunDirError: there is a difference.
    """
    missing = sorted(wanted.keys() - saved.keys())
    extra = sorted(saved.keys() - wanted.keys())
    changed = sorted(path for path in wanted.keys() & saved.keys() if wanted[path] != saved[path])
    problems = [
        _list("lacks", [path + nearest(path, extra) for path in missing]),
        _list("differs in", [f"{path} ({saved[path]}, not {wanted[path]})" for path in changed]),
        "" if subset else _list("has in addition", extra),
    ]
    text = "; ".join(problem for problem in problems if problem)
    if text:
        raise RunDirError(
            f"{name} does not fit the model's variables: it {text}."
            " Use the configuration that it was saved with (config.gin), or another --model_dir"
        )


def _list(verb: str, items: list[str]) -> str:
    """Returns "lacks x, y and 3 more"; "" without items."""
    if not items:
        return ""
    omitted = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return f"{verb} {', '.join(items[:_NAMED])}{omitted}"
