"""Keeping XLA from rewriting across a tensor."""

from __future__ import annotations

from tensorflow.compiler.tf2xla.python import xla

from mtfrun.mtf.compiler import is_traced_for_xla
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def optimization_barrier(x: TensorLike) -> Tensor:
    """Returns x, which XLA then computes as it is written, before what is made of it.

    For instance XLA turns the transpose of a product into the product of the transposed factors,
    also where that is slower. Without XLA, and on several devices, nothing happens.
    """
    x = as_tensor(x)
    if not is_traced_for_xla(x.mesh):
        return x
    (value,) = xla.optimization_barrier(x.value)
    return Tensor(x.mesh, value, x.shape)
