"""What a program computes apart from what its results need: barriers and order."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from mtfrun.mtf.function import is_traced_for_xla
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def optimization_barrier(x: TensorLike) -> Tensor:
    """Returns x, which XLA computes separately from the operations that use it.

    XLA otherwise rewrites across operations: the transpose of a product, for instance, becomes the
    product of the transposed factors, even where that is slower. Without XLA, and on several
    devices, this returns x itself.
    """
    x = as_tensor(x)
    if not is_traced_for_xla(x.mesh):
        return x
    (value,) = xla.optimization_barrier(x.value)
    return Tensor(x.mesh, value, x.shape)


def computed_after(first: TensorLike, tensors: Any) -> Any:
    """Returns tensors, in any structure, that are computed after another one, which is kept.

    A program otherwise leaves out what none of its results needs.
    """
    with tf.control_dependencies([as_tensor(first).value]):
        return tf.nest.map_structure(
            lambda x: Tensor(x.mesh, tf.identity(x.value), x.shape), tensors
        )
