"""ZeRO and FSDP: every device of a mesh axis stores a part of the slots, or of the weights as well.

Two layout rules do not name a dimension: "slots:data" splits the slots of optimizers further over
the axis `data` (ZeRO-1: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054), "weights:data"
the variables as well, between their uses (FSDP: Zhao et al. 2023,
https://arxiv.org/abs/2304.11277).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mtfrun.mtf.placement.layout import SLOTS, WEIGHTS
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.shape import Shape, ShapeLike, convert_to_shape

# By which the storage of a variable, and of an optimizer's slot, is split further: one rule after
# the other.
VARIABLE_RULES, SLOT_RULES = (WEIGHTS,), (WEIGHTS, SLOTS)


def shard_shape(mesh: Mesh, shape: ShapeLike, rules: Sequence[str] = SLOT_RULES) -> Shape:
    """Returns the shape by which a variable or slot is stored.

    Of the dimensions that the rule's axis divides and that are not split yet, it splits the (first)
    largest, renamed to "<name>_over_<axis>". A shape stays as it is where the axis splits one of
    its dimensions already, divides no dimension, or has one device.
    """
    shape = convert_to_shape(shape)
    for rule in rules:
        axis = mesh.layout.get(rule)
        parts = 1 if axis is None else mesh.shape.get_dim_by_name(axis).size
        if axis is None or parts == 1 or axis in mesh.partition(shape):
            continue
        free = [dim for dim in shape if dim.size % parts == 0 and mesh.num_splits(dim) == 1]
        if free:
            dim = max(free, key=lambda dim: dim.size)
            name = _sharded_name(dim.name, axis)
            mesh.sharded_dims[name] = axis
            shape = shape.rename_dimension(dim.name, name)
    return shape


def sharded_names(mesh: Mesh, names: Iterable[str]) -> set[str]:
    """Returns the names of dimensions, and the names that `shard_shape` gives them."""
    names = set(names)
    axes = mesh.shape.dimension_names
    return names | {_sharded_name(name, axis) for name in names for axis in axes}


def _sharded_name(name: str, axis: str) -> str:
    return f"{name}_over_{axis}"
