"""A barrier to XLA's rewriting of expressions."""

from __future__ import annotations

from tensorflow.compiler.tf2xla.python import xla

from mtfrun.mtf.compiler import is_traced_for_xla
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
