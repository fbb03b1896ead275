"""Normalisation of every vector by its statistics, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.layer import Call


def rms_norm(
    x: mtf.TensorLike, dim: mtf.Dimension, scale: mtf.TensorLike, epsilon: float = 1e-6
) -> mtf.Tensor:
    """Returns x / rms(x) * scale over `dim`; Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.

    x: {..., dim}; scale: {dim} float32; the result has x's type.
    """
    x_float32 = mtf.to_float(x)
    mean_square = mtf.reduce_mean(mtf.square(x_float32), reduced_dim=dim)
    return mtf.cast(x_float32 * mtf.rsqrt(mean_square + epsilon) * scale, x.dtype)


def layer_norm(
    x: mtf.TensorLike,
    dim: mtf.Dimension,
    scale: mtf.TensorLike,
    bias: mtf.TensorLike,
    epsilon: float = 1e-6,
) -> mtf.Tensor:
    """Returns (x - mean(x)) / std(x) * scale + bias over `dim`; Ba et al. 2016, arXiv:1607.06450.

    x: {..., dim}; scale, bias: {dim} float32; the result has x's type.
    """
    x_float32 = mtf.to_float(x)
    centred = x_float32 - mtf.reduce_mean(x_float32, reduced_dim=dim)
    variance = mtf.reduce_mean(mtf.square(centred), reduced_dim=dim)
    return mtf.cast(centred * mtf.rsqrt(variance + epsilon) * scale + bias, x.dtype)


def _store_input_only(
    normalise: Callable[..., mtf.Tensor], inputs: Sequence[mtf.Tensor], call: Call
) -> mtf.Tensor:
    """Returns normalise(*inputs), whose inner values a step of training computes again.

    Otherwise it stores two tensors of x's sizes in float32, four times x's memory in bfloat16. Not
    on several devices, where the wait for the backward pass is a collective.
    """
    if not call.training or inputs[0].mesh.is_distributed:
        return normalise(*inputs)
    y: mtf.Tensor = mtf.recompute_grad(normalise, inputs)
    return y


class RMSNorm(mtf.Module):
    """`rms_norm` with a trained scale."""

    # The name of the module in a stack: "norm/scale".
    short_name = "norm"

    def __init__(
        self,
        mesh: mtf.Mesh,
        dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        self._dim = dim
        self._epsilon = epsilon
        self.scale = mtf.Variable(mesh, [dim], mtf.initializers.Ones(), dtypes.master)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x {..., dim} normalised over `dim`."""

        def normalise(x: mtf.Tensor, scale: mtf.Tensor) -> mtf.Tensor:
            return rms_norm(x, self._dim, scale, self._epsilon)

        return _store_input_only(normalise, [x, mtf.cast(self.scale, tf.float32)], call)


class LayerNorm(mtf.Module):
    """`layer_norm` with a trained scale and bias."""

    # The name of the module in a stack: "norm/scale".
    short_name = "norm"

    def __init__(
        self,
        mesh: mtf.Mesh,
        dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        self._dim = dim
        self._epsilon = epsilon
        self.scale = mtf.Variable(mesh, [dim], mtf.initializers.Ones(), dtypes.master)
        self.bias = mtf.Variable(mesh, [dim], dtype=dtypes.master)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x {..., dim} normalised over `dim`."""
        scale, bias = mtf.cast(self.scale, tf.float32), mtf.cast(self.bias, tf.float32)

        def normalise(x: mtf.Tensor, scale: mtf.Tensor, bias: mtf.Tensor) -> mtf.Tensor:
            return layer_norm(x, self._dim, scale, bias, self._epsilon)

        return _store_input_only(normalise, [x, scale, bias], call)
