"""`Mesh.reproducible`: the same bits for any number of devices along one axis."""

from __future__ import annotations

from mtfrun.errors import LayoutError, did_you_mean
from mtfrun.mtf.placement.layout import LayoutRules
from mtfrun.mtf.shape import Dimension, Shape

_BATCH = ("batch", "outer_batch")


def check_reproducible(fixed: Shape, shape: Shape, layout: LayoutRules) -> Dimension | None:
    """Returns the axis that splits the batch, with the number of its parts, or None.

    `fixed` has this axis, and every other axis of several devices with the mesh's size. A
    LayoutError unless the mesh and its layout allow the same bits.
    """
    if not fixed.ndims:
        return None
    what = f"Mesh.reproducible={fixed.to_string!r}"
    axis = layout.get("batch")
    for name in fixed.dimension_names:
        if name not in shape.dimension_names:
            hint = did_you_mean(name, shape.dimension_names)
            raise LayoutError(f"{what}: the mesh {shape.to_string} has no axis {name!r}{hint}")
    if axis not in fixed.dimension_names:
        remedy = "add the rule batch:" + fixed[0].name if axis is None else f"add {axis}:8"
        unknown = f"{what} does not say into how many parts the batch is split over {axis}"
        raise LayoutError(f"{unknown}: {remedy}, for example")
    parts = fixed.get_dim_by_name(axis)
    devices = shape.get_dim_by_name(axis).size
    if parts.size & (parts.size - 1) or parts.size % devices:
        raise LayoutError(
            f"{what}: the {devices} device(s) along {axis!r} cannot compute {parts.size} parts: "
            "both must be powers of two, and the parts at least as many"
        )
    for name, size in shape.dims:
        expected = 1 if name not in fixed.dimension_names else fixed.get_dim_by_name(name).size
        if name != axis and size != expected:
            raise LayoutError(
                f"{what}: the mesh has {size} device(s) along {name!r}, not {expected}, on which "
                f"the bits depend: change the mesh, or write {axis}:{parts.size},{name}:{size}"
            )
    for dimension, mesh_axis in layout.items():
        if mesh_axis == axis and dimension not in _BATCH:
            raise LayoutError(
                f"{what}: remove the rule {dimension}:{axis}, which is not the batch's"
            )
    return parts
