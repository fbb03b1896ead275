"""What of a layout could be better: what is replicated needlessly."""

from __future__ import annotations

import collections
import dataclasses

from mtfrun import mtf
from mtfrun.mtf.layout import SLOTS, WEIGHTS
from mtfrun.tools.planning.plan import PARAMETERS, Plan, PlannedVariable


@dataclasses.dataclass(frozen=True)
class Replicated:
    """Variables that all devices along a mesh axis hold whole.

    Attributes:
      axis: the mesh axis.
      device_bytes: their bytes on each device.
      rules: rules that would split some of them and that no shape of the model forbids, with the
        bytes that each saves on a device, the largest first; among them the reserved rules of
        slots and weights, see `mtf.Mesh.spread`.
    """

    axis: str
    device_bytes: int
    rules: tuple[tuple[str, int], ...]


def replicated(plan: Plan) -> list[Replicated]:
    """Returns, for every axis of several devices, the variables that it does not split."""
    found = []
    for axis in plan.mesh.shape:
        whole = [v for v in plan.variables if axis.name not in v.partition]
        num_bytes = sum(variable.device_bytes for variable in whole)
        if axis.size == 1 or not num_bytes:
            continue
        saved: collections.Counter[str] = collections.Counter()
        for variable in whole:
            for dim, of_axis in zip(variable.shape, variable.partition, strict=True):
                if of_axis is None and _may_be_split(dim.name, axis, plan.mesh):
                    saved[f"{dim.name}:{axis.name}"] += _saved(variable, axis)
            for rule in _reserved_rules(variable, axis, plan.mesh):
                saved[f"{rule}:{axis.name}"] += _saved(variable, axis)
        found.append(Replicated(axis.name, num_bytes, tuple(saved.most_common())))
    return found


def _saved(variable: PlannedVariable, axis: mtf.Dimension) -> int:
    """Returns the bytes that a device saves if the axis splits the variable."""
    return variable.device_bytes - variable.device_bytes // axis.size


def _reserved_rules(variable: PlannedVariable, axis: mtf.Dimension, mesh: mtf.Mesh) -> list[str]:
    """Returns which of the reserved rules, as far as the layout lacks them, split a variable."""
    has_part = any(
        of_axis is None and dim.size % axis.size == 0
        for dim, of_axis in zip(variable.shape, variable.partition, strict=True)
    )
    rules = [WEIGHTS] if variable.kind == PARAMETERS else [WEIGHTS, SLOTS]
    return [rule for rule in rules if has_part and rule not in mesh.layout]


def _may_be_split(name: str, axis: mtf.Dimension, mesh: mtf.Mesh) -> bool:
    """Returns whether a rule for a dimension fits all shapes that were laid out."""
    if name in mesh.layout:
        return False
    return all(
        dim.size % axis.size == 0 and axis.name not in mesh.partition(shape)
        for shape in mesh.shapes_seen
        for dim in shape
        if dim.name == name
    )
