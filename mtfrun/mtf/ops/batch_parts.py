"""Sums over the parts of a batch, with the same bits on any number of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from mtfrun.errors import InputError
from mtfrun.mtf.ops.binary import add
from mtfrun.mtf.ops.constants import constant, zeros_like
from mtfrun.mtf.ops.control_flow.control import shapes_of_results, while_loop
from mtfrun.mtf.ops.indexing import gather
from mtfrun.mtf.ops.structure import replace_dimensions
from mtfrun.mtf.placement import engine
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.shape import Dimension, Shape
from mtfrun.mtf.tensor import Tensor


def sum_over_parts(
    fn: Callable[[dict[str, Tensor], Tensor], Any], batch: Mapping[str, Tensor], zeros: Any = None
) -> Any:
    """Returns the sum of `fn` over the parts of a batch, see `Mesh.reproducible`.

    A device computes its parts one after the other, on every mesh in the same program for tensors
    of the same sizes. It adds neighbours in a binary tree, of which it has a whole branch; then
    pairs of devices add their sums. It holds one sum for each level of its branch.

    Args:
      fn: takes a part {..., batch, ...}, whole on its device, and the part's number, an int32
        scalar. It returns a nested structure of tensors, and must not use other devices.
      batch: tensors {..., batch, ...}.
      zeros: a structure like fn's result; by default `fn` is traced once more to make it.
    """
    mesh = next(iter(batch.values())).mesh
    first = Tensor(mesh, engine.device_number(mesh.first_part), Shape())

    def compute_part(number: Tensor) -> Any:
        return fn({name: _part(x, number) for name, x in batch.items()}, number)

    if zeros is None:
        zeros = tf.nest.map_structure(zeros_like, shapes_of_results(compute_part, [first]))

    def branch(begin: Tensor, size: int) -> Any:
        half = size // 2

        def body(i: Tensor, sums: Any) -> tuple[Tensor, Any]:
            terms = branch(begin + i * half, half) if half else compute_part(begin)
            return i + 1, tf.nest.map_structure(add, sums, terms)

        # A branch of one part is a loop of one round: programs that differ may round differently.
        rounds = 2 if half else 1
        start = constant(mesh, 0, dtype=tf.int32)
        _, sums = while_loop(
            lambda i, _: i < rounds, body, (start, zeros), most_rounds=rounds, parallel_iterations=1
        )
        return sums

    def over_devices(x: Tensor) -> Tensor:
        axes = mesh.partition(x.shape)
        value = engine.sum_over_devices(x.value, mesh.device_mesh, mesh.halving_axes, axes)
        return Tensor(mesh, value, x.shape)

    device_sums = branch(first, _parts(mesh).size >> len(mesh.halving_axes))
    return tf.nest.map_structure(over_devices, device_sums)


def _parts(mesh: Mesh) -> Dimension:
    if mesh.batch_parts is None:
        raise InputError("a batch has parts only with Mesh.reproducible")
    return Dimension("batch_parts", mesh.batch_parts.size)


def _part(x: Tensor, number: Tensor) -> Tensor:
    """Returns the examples of a part, which are neighbours."""
    batch, parts = x.shape.get_dim_by_name("batch"), _parts(x.mesh)
    x.mesh.check_parts(batch)
    examples = Dimension("batch", batch.size // parts.size)
    return gather(replace_dimensions(x, batch, [parts, examples]), number, parts)
