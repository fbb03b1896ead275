"""A matrix plus the product of two thin ones, which einsum multiplies without adding them up."""

from __future__ import annotations

import string
from collections.abc import Callable

import tensorflow as tf

from mtfrun.mtf.shape import Dimension, Shape, union
from mtfrun.mtf.tensor import Tensor


def equation(x: Shape, y: Shape, result: Shape) -> str:
    """Returns the equation of tf.einsum for the product of two tensors: "ab,bc->ac"."""
    letters = dict(zip(union(x, y), string.ascii_letters, strict=False))
    x_term, y_term, result_term = ("".join(letters[dim] for dim in s) for s in (x, y, result))
    return f"{x_term},{y_term}->{result_term}"


class LowRankSum(Tensor):
    """The tensor base + scale * down * up, of the shape and type of `base`.

    down: {reduced..., rank}; up: {rank, ...} with the other dimensions of base. `mtf.einsum` with
    an x that has the reduced dimensions computes x * base + (scale * drop(x) * down) * up: neither
    the sum nor, in the backward pass, its gradient is stored. Any other operation takes `value`,
    the sum, without `drop`.
    """

    __slots__ = ("base", "down", "drop", "scale", "up")

    def __init__(
        self,
        base: Tensor,
        down: Tensor,
        up: Tensor,
        scale: float,
        drop: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.mesh = base.mesh
        self.shape = base.shape
        self.base = base
        self.down = down
        self.up = up
        self.scale = scale
        self.drop = drop

    @property
    def value(self) -> tf.Tensor:
        """The sum, computed at each access: inside and outside a loop it is another tensor."""
        product = tf.einsum(
            equation(self.down.shape, self.up.shape, self.shape), self.down.value, self.up.value
        )
        scaled = product * tf.constant(self.scale, product.dtype)
        return self.base.value + self.mesh.constrain(scaled, self.shape)

    @property
    def dtype(self) -> tf.DType:
        return self.base.dtype

    @property
    def rank(self) -> Dimension:
        """The dimension over which the two factors are multiplied."""
        (rank,) = (dim for dim in self.down.shape if dim in self.up.shape)
        return rank

    @property
    def reduced_dims(self) -> Shape:
        """The dimensions over which products with it sum."""
        return self.down.shape - self.rank

    def map(self, function: Callable[[Tensor], Tensor]) -> LowRankSum:
        """Returns the sum of function(base) and the product of both function(factor)."""
        base, down, up = map(function, (self.base, self.down, self.up))
        return LowRankSum(base, down, up, self.scale, self.drop)
