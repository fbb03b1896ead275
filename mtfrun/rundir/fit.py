"""Comparison of a checkpoint's variables with those of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtfrun.rundir.errors import RunDirError, nearest
from mtfrun.rundir.manifest import VariableSpec

_NAMED = 3
"""How many variables of each kind an error names; a wrong model differs in hundreds."""

# The parts of a checkpoint, by the start of a path, in the order in which they are explained.
_MODEL, _OPTIMIZER, _AVERAGES = "model/", "optimizer/", "averages/"


class MisfitError(RunDirError):
    """A checkpoint does not fit the variables of a model.

    Attributes:
      name: the path of the checkpoint.
      parts: "model", "optimizer" or "averages": the parts whose variables differ.
      remedy: what the user can do.
    """

    def __init__(self, name: str, problems: str, parts: Sequence[str], remedy: str) -> None:
        super().__init__(f"{name} does not fit the model's variables: it {problems}; {remedy}")
        self.name = name
        self.parts = tuple(parts)
        self.remedy = remedy


def check_fit(
    name: str,
    saved: Mapping[str, VariableSpec],
    wanted: Mapping[str, VariableSpec],
    *,
    subset: bool,
) -> None:
    """Raises one MisfitError with the first differences between `saved` and `wanted` variables.

    If variables of the model differ, those of its optimizer do too, and are not named.

    Args:
      name: the checkpoint's name, for the message.
      saved: the variables in the checkpoint, by path.
      wanted: the variables to restore, by path.
      subset: the checkpoint may hold further variables (evaluation needs no optimizer slots).

    Raises:
      MisfitError: there is a difference.
    """
    missing = sorted(wanted.keys() - saved.keys())
    extra = [] if subset else sorted(saved.keys() - wanted.keys())
    changed = sorted(path for path in wanted.keys() & saved.keys() if wanted[path] != saved[path])
    if not (missing or extra or changed):
        return
    parts = _parts([*missing, *extra, *changed])
    if parts[0] == "optimizer" and not any(path.startswith(_OPTIMIZER) for path in saved):
        raise MisfitError(
            name,
            "has weights without an optimizer",
            parts,
            f"train in another --model_dir, with --gin.INIT_CHECKPOINT=\"'{name}'\"",
        )
    start = f"{parts[0]}/".lstrip("/")
    missing, extra, changed = (
        [path for path in paths if path.startswith(start)] for paths in (missing, extra, changed)
    )
    problems = [
        _list("lacks", [path + nearest(path, extra) for path in missing]),
        _list("differs in", [f"{path} ({saved[path]}, not {wanted[path]})" for path in changed]),
        _list("has in addition", extra),
    ]
    raise MisfitError(
        name,
        "; ".join(problem for problem in problems if problem),
        parts,
        "use the configuration that it was saved with (config.gin), or another --model_dir",
    )


def _parts(paths: Sequence[str]) -> list[str]:
    """Returns the parts of a checkpoint that have variables; of other names all."""
    starts = {path.partition("/")[0] for path in paths}
    known = [part.strip("/") for part in (_MODEL, _OPTIMIZER, _AVERAGES)]
    return [part for part in known if part in starts] or [""]


def _list(verb: str, items: Sequence[str]) -> str:
    """Returns "lacks x, y and 3 more"; "" without items."""
    if not items:
        return ""
    omitted = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return f"{verb} {', '.join(items[:_NAMED])}{omitted}"
