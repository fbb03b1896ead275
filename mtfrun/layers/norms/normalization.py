"""Normalisation of every vector by its statistics, in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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
    return _Norm(dim, epsilon, is_centred=False)([x, scale])


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
    return _Norm(dim, epsilon, is_centred=True)([x, scale] if bias is None else [x, scale, bias])


@dataclasses.dataclass(frozen=True)
class _Norm:
    """The function of x, the scale and, if there is one, the bias.

    A training step stores x and the statistics of its vectors, no other tensors of x's size.
    """

    dim: Dims
    epsilon: float
    is_centred: bool

    def __call__(self, inputs: Sequence[mtf.TensorLike]) -> mtf.Tensor:
        y, *_ = mtf.custom_gradient(self._forward, self._backward, inputs)
        return y

    def _forward(
        self, x: mtf.Tensor, scale: mtf.Tensor, *bias: mtf.Tensor
    ) -> tuple[mtf.Tensor, ...]:
        """Returns y, and of every vector 1 / std and, if it is centred, the mean."""
        x_float32 = mtf.to_float(x)
        means = [self._mean(x_float32)] if self.is_centred else []
        centred = x_float32 - means[0] if means else x_float32
        per_std = mtf.rsqrt(self._mean(mtf.square(centred)) + self.epsilon)
        y = centred * per_std * scale
        return mtf.cast(y + bias[0] if bias else y, x.dtype), per_std, *means

    def _backward(
        self, inputs: list[mtf.Tensor], outputs: list[mtf.Tensor], cotangents: list[mtf.Tensor]
    ) -> list[mtf.Tensor]:
        x, scale, *bias = inputs
        _, per_std, *means = outputs
        grad_y = mtf.to_float(cotangents[0])
        # Otherwise a copy of x in float32 would be made, and kept, as soon as x is known.
        centred, grad_centred = mtf.to_float(mtf.compute_after(grad_y, x)), grad_y * scale
        if means:
            mean_grad = self._mean(grad_centred)
            # The last term is 0, and makes the difference wait for the same reason.
            centred -= means[0] + mtf.minimum(mtf.abs(mean_grad), 0.0)
            grad_centred -= mean_grad
        product = grad_y * centred
        grad_std = self._mean(product * scale) * mtf.square(per_std)
        grad_x = (grad_centred - centred * grad_std) * per_std
        grad_scale = mtf.reduce_sum(product * per_std, output_shape=scale.shape)
        grad_bias = [mtf.reduce_sum(grad_y, output_shape=b.shape) for b in bias]
        return [mtf.cast(grad_x, x.dtype), grad_scale, *grad_bias]

    def _mean(self, x: mtf.Tensor) -> mtf.Tensor:
        return mtf.reduce_mean(x, output_shape=x.shape - mtf.Shape(_as_list(self.dim)))


def _as_list(dim: Dims) -> list[mtf.Dimension]:
    return [dim] if isinstance(dim, mtf.Dimension) else list(dim)


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
        self._dim, self._epsilon, self.scale_offset = dim, epsilon, scale_offset
        shape, initial = [*outer_dims, *_as_list(dim)], mtf.initializers.Constant(1 - scale_offset)
        self.scale = mtf.Variable(mesh, shape, initial, dtypes.master, reduced_dims=())

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x {..., dim} normalised over `dim`."""
        scale = mtf.cast(self.scale, tf.float32)
        if self.scale_offset:
            scale += self.scale_offset
        return rms_norm(x, self._dim, scale, self._epsilon)


class LayerNorm(mtf.Module):
    """`layer_norm` with a trained scale and bias; for `dim` and `outer_dims` see `RMSNorm`.

    Without `use_scale` there is neither.
    """

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
        use_scale: bool = True,
    ) -> None:
        super().__init__()
        self._dim, self._epsilon = dim, epsilon
        shape = [*outer_dims, *_as_list(dim)]
        one = mtf.initializers.Ones()
        self.scale = self.bias = None
        if use_scale:
            self.scale = mtf.Variable(mesh, shape, one, dtypes.master, reduced_dims=())
        if use_bias and use_scale:
            self.bias = mtf.Variable(mesh, shape, dtype=dtypes.master, reduced_dims=())

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x {..., dim} normalised over `dim`."""
        if self.scale is None:
            one = mtf.constant(x.mesh, 1.0, dtype=tf.float32)
            return layer_norm(x, self._dim, one, None, self._epsilon)
        bias = None if self.bias is None else mtf.cast(self.bias, tf.float32)
        return layer_norm(x, self._dim, mtf.cast(self.scale, tf.float32), bias, self._epsilon)
