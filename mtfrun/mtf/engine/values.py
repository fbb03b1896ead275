"""Meshes, layouts, and values and variables on them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import processes

DeviceMesh: TypeAlias = dtensor.Mesh
DeviceLayout: TypeAlias = dtensor.Layout


def make_mesh(axes: Sequence[tuple[str, int]], devices: Sequence[str]) -> DeviceMesh:
    """Returns a mesh of (name, size) axes; each connected process has the next `devices`."""
    _keep_all_reduces_apart()
    if processes.count() == 1:
        return dtensor.create_mesh(axes, devices=devices)
    kind = devices[0].partition(":")[0]
    return dtensor.create_distributed_mesh(axes, local_devices=devices, device_type=kind)


def make_planned_mesh(axes: Sequence[tuple[str, int]]) -> DeviceMesh:
    """Returns a mesh of which only the first device, a CPU, exists: programs compile for it."""
    _keep_all_reduces_apart()
    sizes = [size for _, size in axes]
    return dtensor.Mesh(
        dim_names=[name for name, _ in axes],
        global_device_ids=np.arange(np.prod(sizes)).reshape(sizes),
        local_device_ids=[0],
        local_devices=[
            tf.DeviceSpec(job="localhost", replica=0, task=0, device_type="CPU", device_index=0)
        ],
    )


def _keep_all_reduces_apart() -> None:
    """Makes DTensor keep a program's all-reduces apart, unless the user's environment decides.

    It combines independent ones, but does not see that a loop reads one and another needs the
    loop's result: it refuses its program ("operand does not dominate this use"). It reads the
    variable for its first program. Shown by
    tests/models/test_context_parallelism.py::test_heads_may_be_split_over_another_axis.
    """
    os.environ.setdefault("DTENSOR_ENABLE_COMBINE_ALL_REDUCES_OPTIMIZATION", "0")


def places(mesh: DeviceMesh) -> list[dict[str, int]]:
    """Returns the index along every axis of each device of this process; scans all devices."""
    return cast("list[dict[str, int]]", mesh.local_device_locations())


def make_layout(mesh: DeviceMesh, axes: Sequence[str | None]) -> DeviceLayout:
    """Returns the layout whose dimensions are split over these axes.

    Some operations refuse axes of one device, which are left out:
    tests/mtf/test_mesh.py::test_an_axis_of_one_device_splits_nothing.
    """
    specs = [axis if axis and mesh.dim_size(axis) > 1 else dtensor.UNSHARDED for axis in axes]
    return dtensor.Layout(specs, mesh)


def relayout(value: tf.Tensor, layout: DeviceLayout) -> tf.Tensor:
    """Returns a value in another layout; inside a traced function it may be a plain tensor."""
    return dtensor.relayout(value, layout)


def pack(parts: Sequence[tf.Tensor], layout: DeviceLayout) -> tf.Tensor:
    """Returns the value with these parts on the devices of this process, in order."""
    return dtensor.pack(parts, layout)


def to_numpy(value: tf.Tensor, mesh: DeviceMesh) -> np.ndarray:
    """Returns a whole value. Collective: every process must call it."""
    replicated = dtensor.Layout.replicated(mesh, rank=value.shape.rank)
    return cast(np.ndarray, dtensor.unpack(dtensor.relayout(value, replicated))[0].numpy())


def make_variable(value: tf.Tensor, *, trainable: bool) -> tf.Variable:
    """Returns a variable with the layout of its initial value."""
    return dtensor.DVariable(value, trainable=trainable)


def distinct_parts(variable: tf.Variable) -> Iterator[tuple[tf.Tensor, tuple[int, ...]]]:
    """Yields this process's parts of a variable and their begins; over all processes each once.

    Of devices with the same part the first yields it; a plain `tf.Variable` is the first process's.
    """
    value = variable.read_value()
    if not isinstance(variable, dtensor.DVariable):
        if processes.is_first():
            yield value, (0,) * value.shape.rank
        return
    layout = variable.layout
    sharding = [None if axis == dtensor.UNSHARDED else axis for axis in layout.sharding_specs]
    for place, part in zip(places(layout.mesh), dtensor.unpack(value), strict=True):
        if any(index for axis, index in place.items() if axis not in sharding):
            continue  # another device has the same part
        yield (
            part,
            tuple(
                0 if axis is None else place[axis] * size
                for axis, size in zip(sharding, part.shape.as_list(), strict=True)
            ),
        )


def run_on(mesh: DeviceMesh | None) -> contextlib.AbstractContextManager[None]:
    """Returns a context whose programs without arguments run on a mesh; None for no mesh.

    See
    tests/mtf/test_function.py::test_a_function_without_arguments_runs_on_the_mesh_of_its_results
    """
    if mesh is None:
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = dtensor.run_on(mesh)
    return context
