"""Sums over the parts of a batch, with the same bits on any number of devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mtfrun.mtf import engine
from mtfrun.mtf.mesh import Mesh
from mtfrun.mtf.ops.binary import add
from mtfrun.mtf.ops.constants import constant
from mtfrun.mtf.ops.control import while_loop
from mtfrun.mtf.shape import Shape
from mtfrun.mtf.tensor import Tensor


def sum_over_parts(mesh: Mesh, fn: Callable[[Tensor], Any], zeros: Any) -> Any:
    """Returns the sum of fn(part) over the parts of a batch, 0 ... `mesh.batch_parts.size` - 1.

    A device computes its parts one after the other, in one program for tensors of the same sizes
    on every mesh, and adds neighbours in a binary tree, of which it has a whole branch; then pairs
    of devices add theirs. It holds one sum for each level of its branch.

    Args:
      fn: takes an int32 scalar, of which each device has another one.
      zeros: a nested structure of tensors like fn's result.
    """
    assert mesh.batch_parts and mesh.device_mesh
    first = Tensor(mesh, engine.device_number(mesh.first_part), Shape())

    def branch(begin: Tensor, number: int) -> Any:
        half = number // 2

        def body(i: Tensor, sums: Any) -> tuple[Tensor, Any]:
            # The smallest branch is in a loop too: the same program on every mesh.
            terms = branch(begin + i * half, half) if half else fn(begin)
            return i + 1, tf.nest.map_structure(add, sums, terms)

        rounds = 2 if half else 1
        start = constant(mesh, 0, dtype=tf.int32)
        _, sums = while_loop(
            lambda i, _: i < rounds,
            body,
            (start, zeros),
            most_rounds=rounds,
            parallel_iterations=1,
        )
        return sums

    def over_devices(x: Tensor) -> Tensor:
        axes = mesh.partition(x.shape)
        value = engine.sum_over_devices(x.value, mesh.device_mesh, mesh.halving_axes, axes)
        return Tensor(mesh, value, x.shape)

    of_device = branch(first, mesh.batch_parts.size >> len(mesh.halving_axes))
    return tf.nest.map_structure(over_devices, of_device)
