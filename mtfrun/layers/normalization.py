"""Normalisation of every vector by its statistics, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.layer import Call

# One dimension to normalise over, or several together.
Dims = mtf.Dimension | Sequence[mtf.Dimension]


def rms_norm(
    x: mtf.TensorLike, dim: Dims, scale: mtf.TensorLike, epsilon: float = 1e-6
) -> mtf.Tensor:
    """Returns x / rms(x) * scale over `dim`; Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.

    x: {..., dim}; scale: dimensions of x, float32; the result has x's type.
    """
    x_float32 = mtf.to_float(x)
    mean_square = _mean(mtf.square(x_float32), dim)
    return mtf.cast(x_float32 * mtf.rsqrt(mean_square + epsilon) * scale, x.dtype)


def layer_norm(
    x: mtf.TensorLike,
    dim: Dims,
    scale: mtf.TensorLike,
    bias: mtf.TensorLike | None = None,
    epsilon: float = 1e-6,
) -> mtf.Tensor:
    """Returns (x - mean(x)) / std(x) * scale + bias over `dim`; Ba et al. 2016, arXiv:1607.06450.

    x: {..., dim}; scale, bias: dimensions of x, float32; the result has x's type.
    """
    x_float32 = mtf.to_float(x)
    centred = x_float32 - _mean(x_float32, dim)
    y = centred * mtf.rsqrt(_mean(mtf.square(centred), dim) + epsilon) * scale
    return mtf.cast(y if bias is None else y + bias, x.dtype)


def _mean(x: mtf.Tensor, dim: Dims) -> mtf.Tensor:
    return mtf.reduce_mean(x, output_shape=x.shape - mtf.Shape(_as_list(dim)))


def _as_list(dim: Dims) -> list[mtf.Dimension]:
    return [dim] if isinstance(dim, mtf.Dimension) else list(dim)


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
    """`rms_norm` with a trained scale.

    Args:
      dim: one dimension, or several over which x is normalised together.
      outer_dims: dimensions of x for every index of which there is another scale; first in it.
      scale_offset: is added to the variable. With 1, as in Gemma (arXiv:2403.08295), the variable
        begins at 0, and weight decay pulls the scale to 1.
    """

    # The name of the module in a stack: "norm/scale".
    short_name = "norm"

    def __init__(
        self,
        mesh: mtf.Mesh,
        dim: Dims,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        epsilon: float = 1e-6,
        outer_dims: Sequence[mtf.Dimension] = (),
        scale_offset: float = 0.0,
    ) -> None:
        super().__init__()
        self._dim = dim
        self._epsilon = epsilon
        self.scale_offset = scale_offset
        self.scale = mtf.Variable(
            mesh,
            [*outer_dims, *_as_list(dim)],
            mtf.initializers.Constant(1.0 - scale_offset),
            dtypes.master,
            reduced_dims=(),
        )

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x {..., dim} normalised over `dim`."""

        def normalise(x: mtf.Tensor, scale: mtf.Tensor) -> mtf.Tensor:
            scale = scale + self.scale_offset if self.scale_offset else scale
            return rms_norm(x, self._dim, scale, self._epsilon)

        return _store_input_only(normalise, [x, mtf.cast(self.scale, tf.float32)], call)


class LayerNorm(mtf.Module):
    """`layer_norm` with a trained scale and bias; for `dim` and `outer_dims` see `RMSNorm`."""

    # The name of the module in a stack: "norm/scale".
    short_name = "norm"

    def __init__(
        self,
        mesh: mtf.Mesh,
        dim: Dims,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        epsilon: float = 1e-6,
        outer_dims: Sequence[mtf.Dimension] = (),
        use_bias: bool = True,
    ) -> None:
        super().__init__()
        self._dim = dim
        self._epsilon = epsilon
        shape = [*outer_dims, *_as_list(dim)]
        one = mtf.initializers.Ones()
        self.scale = mtf.Variable(mesh, shape, one, dtypes.master, reduced_dims=())
        self.bias = None
        if use_bias:
            self.bias = mtf.Variable(mesh, shape, dtype=dtypes.master, reduced_dims=())

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x {..., dim} normalised over `dim`."""
        trained = [self.scale] if self.bias is None else [self.scale, self.bias]

        def normalise(x: mtf.Tensor, scale: mtf.Tensor, *bias: mtf.Tensor) -> mtf.Tensor:
            return layer_norm(x, self._dim, scale, bias[0] if bias else None, self._epsilon)

        inputs = [x, *(mtf.cast(variable, tf.float32) for variable in trained)]
        return _store_input_only(normalise, inputs, call)
