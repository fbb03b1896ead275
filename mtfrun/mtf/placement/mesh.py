"""A mesh of devices with named axes, and the layout of tensors on it."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Sequence

import tensorflow as tf

from mtfrun import processes
from mtfrun.errors import LayoutError, did_you_mean
from mtfrun.mtf.context import set_inside
from mtfrun.mtf.placement import engine
from mtfrun.mtf.placement.devices import (
    DeviceSettings,
    choose_devices,
    describe_devices,
    share_cores,
)
from mtfrun.mtf.placement.layout import (
    SLOTS,
    WEIGHTS,
    LayoutLike,
    LayoutRules,
    check_divides,
    convert_to_layout_rules,
    legal_sizes,
)
from mtfrun.mtf.shape import Dimension, Shape, ShapeLike, convert_to_shape

_DEFAULT_SETTINGS = DeviceSettings()
_IS_PLANNING = contextvars.ContextVar("is_planning", default=False)
# Dimensions of computations, which are laid out only when these run, and of some models: a layout
# that several models share may have rules for them.
_NAMES_OF_SOME_MODELS = """
    batch outer_batch length memory_length max_length chunks chunk_length groups group_size
    group_size_x group_size_y expert_capacity expert_capacity_x expert_capacity_y experts expert_x
    expert_y expert_hidden experts_per_token beam double_beam tokens vocab classes d_model d_ff d_kv
    d_v heads head_groups filters rank row_blocks col_blocks rows cols depth
"""
_OF_SOME_MODELS = frozenset(_NAMES_OF_SOME_MODELS.split())


class Mesh:
    """Devices in a grid with named axes, and the rules that split tensors over them.

    A mesh of one device does not use DTensor: values are plain tensors. A CPU-only machine
    simulates the devices that it lacks. Each of several processes, see `mtfrun.processes`, has an
    equal part in row-major order: the first axes lie across processes. A LayoutError if a rule
    names an axis that the mesh does not have, or a device does not exist.

    Args:
      shape: the mesh axes, such as "data:2;model:4".
      layout: rules "dimension:axis", see also `zero`; a dimension without a rule is replicated.
      devices: names such as "GPU:0", one for each of this process's places in the mesh; by default
        the accelerators, else (simulated) CPUs. One named device hides the other accelerators from
        TensorFlow.
      settings: TensorFlow's settings for the devices.
      reproducible: "data:8" makes training compute the same bits on 1, 2, 4 and 8 devices along the
        axis `data`, which must be the batch's: a batch has 8 parts, computed one after the other on
        each device and added in one order, see `sum_over_parts`. Other axes of several devices must
        be named with their sizes, and must then have these: "data:8,model:2".

    Attributes:
      batch_parts: the axis of the batch with the number of these parts, or None.
      is_planned: whether its devices need not exist, see `mtf.planned_meshes`.

    Examples:
      >>> mesh = Mesh("data:1,model:1", "batch:data;heads:model")
      >>> mesh.axis_of(Dimension("heads", 4))
      'model'
    """

    def __init__(
        self,
        shape: ShapeLike = "data:1,model:1",
        layout: LayoutLike = "",
        devices: Sequence[str] | None = None,
        settings: DeviceSettings = _DEFAULT_SETTINGS,
        reproducible: ShapeLike = "",
    ):
        self.shape = convert_to_shape(shape)
        self.layout = convert_to_layout_rules(layout)
        self._partitions: dict[Shape, tuple[str | None, ...]] = {}
        # The axes of the dimensions that `zero.shard_shape` has named.
        self.sharded_dims: dict[str, str] = {}
        axes = self.shape.dimension_names
        for dimension, axis in self.layout.items():
            if axis not in axes:
                hint = did_you_mean(axis, axes) or ": change the rule, or give the mesh the axis"
                raise LayoutError(
                    f"layout rule {dimension}:{axis} names a mesh axis that does not exist "
                    f"(the mesh is {self.shape.to_string or 'empty'}){hint}"
                )
        fixed = convert_to_shape(reproducible)
        self.batch_parts = _check_reproducible(fixed, self.shape, self.layout)
        self.is_planned = _IS_PLANNING.get()
        self._undivided: dict[Dimension, int] | None = {} if self.is_planned else None
        self.device_mesh: engine.DeviceMesh | None = None
        self._layouts: dict[Shape, engine.DeviceLayout] = {}
        if self.is_planned:
            self.devices = [f"CPU:{number}" for number in range(self.size)]
            self.device_mesh = engine.make_planned_mesh(self._device_axes())
            return
        settings.apply()
        self.devices = choose_devices(self.shape, devices or None)
        # Sums of a product have another order with other numbers of threads.
        if self.size > 1 and self.is_on_cpu and self.batch_parts is None:
            share_cores(len(self.devices))
        if self.size > 1 or self.batch_parts:
            kind, rules = self.devices[0].partition(":")[0], self.layout.to_string
            if self.size == 1 and not self.is_on_cpu:  # else `choose_devices` has started them
                engine.start_accelerators(kind, self.shape.to_string)
            parts = self.batch_parts.size if self.batch_parts else ""
            description = f"{self.shape.to_string} {rules} {parts}".rstrip()
            engine.connect_processes(kind, len(self.devices), description)
            self.device_mesh = engine.make_mesh(self._device_axes(), self.devices)

    def _device_axes(self) -> list[tuple[str, int]]:
        """Returns the axes of the devices, for batch parts with an axis for each pair of halves."""
        axes: list[tuple[str, int]] = []
        for axis in self.shape:
            if self.batch_parts and axis.name == self.batch_parts.name:
                axes += [(name, 2) for name in self.halving_axes]
            else:
                axes.append((axis.name, axis.size))
        return axes or [("devices", 1)]

    @functools.cached_property
    def halving_axes(self) -> list[str]:
        """The axes of two devices each that together are the axis of `batch_parts`."""
        if self.batch_parts is None:
            return []
        name = self.batch_parts.name
        devices = self.shape.get_dim_by_name(name).size
        return [f"{name}_half_{i}" for i in range(devices.bit_length() - 1)]

    @functools.cached_property
    def first_part(self) -> tf.Variable:
        """The number of a device's first batch part, which differs between devices."""
        assert self.batch_parts and self.device_mesh
        number, axes = self.batch_parts.size >> len(self.halving_axes), self.halving_axes[::-1]
        firsts = [
            number * sum(place[axis] << i for i, axis in enumerate(axes))
            for place in self._local_places
        ]
        with tf.init_scope():
            return engine.make_device_numbers(firsts, self.device_mesh)

    @property
    def size(self) -> int:
        return self.shape.size

    @property
    def is_distributed(self) -> bool:
        """Whether values are DTensors."""
        return self.device_mesh is not None

    @property
    def decodes_by_xla(self) -> bool:
        """Whether XLA compiles the programs that decode: on one device, where they are faster."""
        return not self.is_distributed

    @property
    def is_on_cpu(self) -> bool:
        return self.devices[0].startswith("CPU")

    def describe_devices(self) -> str:
        """Returns "GPU:0", for example, or "mesh data:2,model:1 on GPU:0..1"."""
        names = describe_devices(self.devices)
        if self.size == 1:
            return names
        count = processes.count()
        where = f"{names} of each of {count} processes" if count > 1 else names
        return f"mesh {self.shape.to_string.replace(';', ',')} on {where}"

    def axis_of(self, dim: Dimension) -> str | None:
        """Returns the mesh axis over which the rules split `dim`, or None."""
        axis = self.layout.get(dim.name) or self.sharded_dims.get(dim.name)
        # Each device computes its batch parts alone: tensors are not split over their axis.
        return None if self.batch_parts and axis == self.batch_parts.name else axis

    def num_splits(self, dim: Dimension) -> int:
        """Returns the number of parts that `dim` is split into."""
        axis = self.axis_of(dim)
        return 1 if axis is None else self.shape.get_dim_by_name(axis).size

    def parts_of(self, dim: Dimension) -> list[Dimension]:
        """Returns [parts, part] of a split dimension, where `parts` is split; else [dim]."""
        number = self.num_splits(dim)
        if number == 1:
            return [dim]
        return [Dimension(dim.name, number), Dimension(f"{dim.name}_part", dim.size // number)]

    def partition(self, shape: ShapeLike) -> tuple[str | None, ...]:
        """Returns the mesh axis (or None) of every dimension of `shape`.

        A LayoutError if two dimensions are on one axis, or an axis does not divide its dimension.
        """
        shape = convert_to_shape(shape)
        if shape not in self._partitions:
            self._partitions[shape] = self._make_partition(shape)
        return self._partitions[shape]

    def _make_partition(self, shape: Shape) -> tuple[str | None, ...]:
        by_axis: dict[str, Dimension] = {}
        for dim in shape:
            axis = self.axis_of(dim)
            if axis is None:
                continue
            if dim.name in (SLOTS, WEIGHTS):
                raise LayoutError(
                    f"dimension {dim.name!r} of {shape} has the name of the layout rule "
                    f"{dim.name}:{axis}, which is about variables: rename the dimension"
                )
            if axis in by_axis:
                raise LayoutError(
                    f"dimensions {by_axis[axis].name!r} and {dim.name!r} of {shape} are both on "
                    f"mesh axis {axis!r}: drop one of the rules or rename a dimension"
                )
            by_axis[axis] = dim
            parts = self.num_splits(dim)
            if self._undivided is not None and dim.size % parts:
                self._undivided[dim] = parts
            else:
                check_divides(parts, dim, f"over mesh axis {axis}:{parts}", shape)
        return tuple(self.axis_of(dim) for dim in shape)

    def require_division(self) -> None:
        """Ends the description of a planned mesh, until which undivided dimensions are only noted.

        A LayoutError lists them all, with the nearest legal sizes.
        """
        undivided, self._undivided = self._undivided, None
        if undivided:
            self._partitions.clear()
            self._layouts.clear()
            problems = ", ".join(
                f"{dim} over {self.axis_of(dim)}:{n} ({legal_sizes(n, dim)})"
                for dim, n in undivided.items()
            )
            mesh = f"mesh {self.shape.to_string} does not divide"
            raise LayoutError(f"{mesh} {problems}: use the sizes in brackets, or change the mesh")

    def check_parts(self, batch: Dimension) -> None:
        """Raises a LayoutError unless the batch can be split into `batch_parts`, if any."""
        if self.batch_parts is not None:
            number = self.batch_parts.size
            check_divides(number, batch, f"into the {number} parts of Mesh.reproducible")

    def local_sizes(self, shape: ShapeLike) -> list[int]:
        """Returns the sizes of a device's part of a tensor."""
        return [dim.size // self.num_splits(dim) for dim in convert_to_shape(shape)]

    def local_slices(self, shape: ShapeLike) -> list[tuple[slice, ...]]:
        """Returns the part of a tensor of this shape that each device of this process holds."""
        shape = convert_to_shape(shape)
        partition, sizes = self.partition(shape), self.local_sizes(shape)
        if self.device_mesh is None:
            return [tuple(slice(0, size) for size in sizes)]
        return [
            tuple(
                slice(begin, begin + size)
                for begin, size in zip(engine.begins(place, partition, sizes), sizes, strict=True)
            )
            for place in self._local_places
        ]

    @functools.cached_property
    def _local_places(self) -> list[dict[str, int]]:
        assert self.device_mesh is not None
        return engine.places(self.device_mesh)

    def device_layout(self, shape: Shape) -> engine.DeviceLayout:
        """Returns DTensor's layout of a tensor of this shape; distributed meshes only."""
        if shape not in self._layouts:
            self._layouts[shape] = engine.make_layout(self.device_mesh, self.partition(shape))
        return self._layouts[shape]

    def constrain(self, value: tf.Tensor, shape: ShapeLike) -> tf.Tensor:
        """Returns `value`, of this shape, laid out by the rules as in `partition`.

        Eagerly it must already be on the mesh: `mtf.import_tf_tensor` transfers it there.
        """
        if self.device_mesh is None:
            self.partition(shape)
            return value
        return engine.relayout(value, self.device_layout(convert_to_shape(shape)))

    @property
    def shapes_seen(self) -> list[Shape]:
        """All shapes that have been laid out so far."""
        return list(self._partitions)

    @property
    def dimension_names_seen(self) -> set[str]:
        """The names of all dimensions that have been laid out so far."""
        return {name for shape in self._partitions for name in shape.dimension_names}

    def unused_rules(self) -> list[str]:
        """Returns the names of rules that have not split anything so far."""
        seen = self.dimension_names_seen
        if not self.sharded_dims.keys().isdisjoint(seen):
            seen |= {SLOTS, WEIGHTS}
        return [dimension for dimension in self.layout if dimension not in seen]

    def misspelt_rules(self) -> list[str]:
        """Returns a message for every unused rule with a dimension that is probably misspelt."""
        messages = []
        known = self.dimension_names_seen | {SLOTS, WEIGHTS}
        for dimension in (rule for rule in self.unused_rules() if rule not in known):
            hint = did_you_mean(dimension, known)
            if hint and dimension.removesuffix("_unsplit") not in _OF_SOME_MODELS:
                messages.append(
                    f"layout rule {dimension}:{self.layout[dimension]} names no dimension of this "
                    f"model{hint}"
                )
        return messages

    def __repr__(self) -> str:
        return f"Mesh({self.shape.to_string!r}, {self.layout.to_string!r})"


def _check_reproducible(fixed: Shape, shape: Shape, layout: LayoutRules) -> Dimension | None:
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
        if mesh_axis == axis and dimension not in ("batch", "outer_batch"):
            rule = f"{dimension}:{axis}"
            raise LayoutError(f"{what}: remove the rule {rule}, which is not the batch's")
    return parts


def planned_meshes() -> contextlib.AbstractContextManager[None]:
    """Makes every `Mesh` that is constructed inside a planned one, of any size.

    DTensor compiles for a mesh that does not exist; only collectives need all devices when they
    run. A planned mesh has its first device only, a CPU, and zeros in its part of the variables. A
    program that reaches a collective waits forever, so avoid that by its arguments: the training
    step is compiled by a call for 0 steps. One device uses DTensor too, so that its program can be
    read.
    """
    return set_inside(_IS_PLANNING, True)
