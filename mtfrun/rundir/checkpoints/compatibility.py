from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtfrun.differences import changes, list_changes
from mtfrun.rundir.checkpoints.manifest import VariableSpec
from mtfrun.rundir.errors import RunDirError

# The parts of a checkpoint, by the start of a path, in the order in which they are explained.
_PARTS = ("model", "optimizer", "averages")


class IncompatibleError(RunDirError):
    """A checkpoint has other variables than a model."""

    def __init__(self, name: str, problems: str, parts: Sequence[str], remedy: str) -> None:
        super().__init__(f"{name} is incompatible with the model's variables: {problems}; {remedy}")
        self.name = name
        self.parts = tuple(parts)
        self.remedy = remedy


def check_compatible(
    name: str,
    saved: Mapping[str, VariableSpec],
    wanted: Mapping[str, VariableSpec],
    *,
    subset: bool,
) -> None:
    """Slots of the optimizer are not named if variables of the model differ."""
    paths = sorted(wanted) + ([] if subset else sorted(saved.keys() - wanted.keys()))
    old, new = (
        {path: str(specs[path]) if path in specs else None for path in paths}
        for specs in (saved, wanted)
    )
    differing = changes(old, new)
    if not differing:
        return
    starts = {change.name.partition("/")[0] for change in differing}
    parts = [part for part in _PARTS if part in starts]
    if parts[:1] == ["optimizer"] and not any(path.startswith("optimizer/") for path in saved):
        raise IncompatibleError(
            name,
            "it has weights without an optimizer",
            parts,
            f"train in another --model_dir, with --gin.INIT_CHECKPOINT=\"'{name}'\"",
        )
    of_part = [x for x in differing if not parts or x.name.startswith(f"{parts[0]}/")]
    raise IncompatibleError(
        name,
        f"(checkpoint -> model) {list_changes(of_part)}",
        parts,
        "use the configuration that it was saved with (config.gin), or another --model_dir",
    )
