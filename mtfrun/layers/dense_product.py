"""A product of linear maps: gated linear units."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

from mtfrun import mtf
from mtfrun.layers.call import Call
from mtfrun.layers.dense import Dense


class DenseProduct(mtf.Module):
    """The product of activation_i(x * kernel_i); Shazeer 2020, arXiv:2002.05202.

    With (mtf.gelu, None) it is GEGLU, with (mtf.swish, None) SwiGLU; with one activation it is a
    `Dense`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        reduced_dims: Sequence[mtf.Dimension],
        new_dims: Sequence[mtf.Dimension],
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        expert_dims: Iterable[mtf.Dimension] = (),
        activations: Sequence[Callable[[mtf.Tensor], mtf.Tensor] | None] = (mtf.gelu, None),
        use_bias: bool = False,
    ) -> None:
        """Makes one map {*reduced_dims, *new_dims} for every activation; None is the identity.

        `expert_dims` as in `Dense`.
        """
        super().__init__()
        experts = tuple(expert_dims)
        self.factors = [
            Dense(
                mesh,
                reduced_dims,
                new_dims,
                dtypes,
                expert_dims=experts,
                use_bias=use_bias,
                activation=activation,
            )
            for activation in activations
        ]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., *new_dims} for x {..., *reduced_dims}."""
        return functools.reduce(mtf.multiply, (factor(x, call) for factor in self.factors))

    def of_rows(self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {rows, *new_dims} for x {rows, *reduced_dims}; see `Dense.of_rows`."""
        factors = (factor.of_rows(x, sizes, call) for factor in self.factors)
        return functools.reduce(mtf.multiply, factors)
