"""Transfer of values to a mesh and back, whole or, for checkpoints, in parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.placement import engine
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import Shape, ShapeLike, convert_to_shape
from mtfrun.mtf.tensor import Arithmetic, Tensor, as_tensor


@accept_name
def import_tf_tensor(
    mesh: Mesh,
    tf_tensor: tf.Tensor | np.ndarray,
    shape: ShapeLike | None = None,
    *,
    dtype: tf.DType | None = None,
) -> Tensor:
    """Returns a value of the host as a tensor laid out on the mesh.

    Inside a traced function a numpy array, number or list becomes a constant of the graph. Without
    a shape the dimensions have no layout rules, see `anonymous_shape`; without `dtype` the value
    keeps its type. A ShapeError if the sizes differ, a LayoutError if `shape` cannot be laid out.
    """
    if shape is None:
        sizes = tf_tensor.shape if tf.is_tensor(tf_tensor) else np.shape(tf_tensor)
        shape = Shape((f"_anonymous_{i}", size) for i, size in enumerate(sizes))
    shape = convert_to_shape(shape)
    in_graph = not tf.executing_eagerly()
    value = tf_tensor
    if tf.is_tensor(value) and hasattr(value, "numpy") and (in_graph or mesh.is_distributed):
        # A plain eager tensor cannot be used with DTensors: a function would capture it.
        value = value.numpy()
    if dtype is not None or not tf.is_tensor(value):
        value = tf.cast(value, dtype) if tf.is_tensor(value) else np.asarray(value)
    sizes = list(value.shape)
    if sizes != shape.to_integer_list:
        raise ShapeError(f"a value of sizes {sizes} cannot have the shape {shape}")
    mesh.partition(shape)
    if in_graph or not mesh.is_distributed:
        # Without numpy's warning that a number beyond the range of the type becomes infinite.
        with np.errstate(over="ignore"):
            value = tf.convert_to_tensor(value, dtype)
        return Tensor(mesh, mesh.constrain(value, shape) if in_graph else value, shape)
    if dtype is not None:
        with np.errstate(over="ignore"):
            value = value.astype(dtype.as_numpy_dtype)
    return Tensor(mesh, pack(mesh, value, shape), shape)


def pack(mesh: Mesh, array: np.ndarray, shape: Shape) -> tf.Tensor:
    """Returns the DTensor of a host array, of which devices and processes read their parts only."""
    slices = [tf.convert_to_tensor(array[index]) for index in mesh.local_slices(shape)]
    return engine.pack(slices, mesh.device_layout(shape))


def to_numpy(structure: Any) -> Any:
    """Returns whole arrays for tensors and variables. Collective: every process must call it."""

    def convert(x: Any) -> Any:
        if not isinstance(x, Arithmetic):
            return x
        tensor = as_tensor(x)
        if not tensor.mesh.is_distributed:
            return tensor.value.numpy()
        return engine.to_numpy(tensor.value, tensor.mesh.device_mesh)

    return tf.nest.map_structure(convert, structure)


class Shard(NamedTuple):
    """A part of a variable and where it begins; `value` is in CPU memory and does not change."""

    value: tf.Tensor
    begin: tuple[int, ...]


def owned_shards(variables: Iterable[tf.Variable]) -> list[list[Shard]]:
    """Returns copies of the parts of raw variables that this process owns.

    Over all processes every part is there once; processes with the same parts share them. It is not
    a collective, but all processes must name the same variables, and it uses the devices: call it
    in the main thread.
    """
    return [
        [Shard(_on_host(part), begin) for part, begin in parts]
        for parts in engine.distinct_parts(variables)
    ]


def _on_host(value: tf.Tensor) -> tf.Tensor:
    """Copies to this process's first CPU; CPU values are shared, as eager tensors never change."""
    device = tf.DeviceSpec.from_string(value.device)
    if device.device_type == "CPU":
        return value
    with tf.device(device.replace(device_type="CPU", device_index=0).to_string()):
        return tf.identity(value)
