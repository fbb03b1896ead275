"""A linear map of some dimensions, and products of maps: gated linear units."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

from mtfrun import mtf
from mtfrun.layers.layer import Call
from mtfrun.layers.recompute import DENSE


def dense(
    x: mtf.TensorLike,
    kernel: mtf.TensorLike,
    bias: mtf.TensorLike | None = None,
    *,
    reduced_dims: Iterable[mtf.Dimension],
    new_dims: Iterable[mtf.Dimension],
) -> mtf.Tensor:
    """Returns x * kernel + bias, with `reduced_dims` of x replaced by `new_dims`, which come last.

    x: {..., *reduced_dims}; kernel: {*reduced_dims, *new_dims}; bias: {*new_dims}; all of one type.
    Other dimensions that x and the kernel share stay.
    """
    output_shape = mtf.Shape([*(x.shape - mtf.Shape(reduced_dims)), *new_dims])
    y = mtf.keep(mtf.einsum([x, kernel], output_shape=output_shape), DENSE)
    return y if bias is None else y + bias


class Dense(mtf.Module):
    """A linear map with a trained kernel, and optionally a bias and an activation."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        reduced_dims: Sequence[mtf.Dimension],
        new_dims: Sequence[mtf.Dimension],
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        expert_dims: Iterable[mtf.Dimension] = (),
        use_bias: bool = True,
        activation: Callable[[mtf.Tensor], mtf.Tensor] | None = None,
        kernel_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
    ) -> None:
        """Makes the specs of kernel {*reduced_dims, *new_dims} and bias {*new_dims}.

        expert_dims come first in both. A reduced dimension with a new one's name is called "_name".
        """
        super().__init__()
        experts = tuple(expert_dims)
        self._new_dims = tuple(new_dims)
        new_names = {dim.name for dim in self._new_dims}
        self._renamed = {dim.name: f"_{dim.name}" for dim in reduced_dims if dim.name in new_names}
        self._reduced_dims = tuple(
            mtf.Dimension(self._renamed.get(dim.name, dim.name), dim.size) for dim in reduced_dims
        )
        self._dtypes = dtypes
        self._activation = activation
        self.kernel = mtf.Variable(
            mesh,
            [*experts, *self._reduced_dims, *self._new_dims],
            kernel_initializer(self._reduced_dims, self._new_dims),
            dtypes.master,
        )
        self.bias = None
        if use_bias:
            shape = [*experts, *self._new_dims]
            self.bias = mtf.Variable(mesh, shape, dtype=dtypes.master, reduced_dims=())

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., *new_dims} for x: {..., *reduced_dims}, in the activation type."""
        dtype = self._dtypes.activation
        y = dense(
            self._input(x),
            mtf.cast(self.kernel, dtype),
            None if self.bias is None else mtf.cast(self.bias, dtype),
            reduced_dims=self._reduced_dims,
            new_dims=self._new_dims,
        )
        return y if self._activation is None else self._activation(y)

    def map_rows(self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {rows, *new_dims}: every row by the map of its expert; see `mtf.grouped_matmul`.

        x: {rows, *reduced_dims}, sorted by expert; sizes: {expert} int32, the rows of each.
        """
        dtype = self._dtypes.activation
        x = self._input(x)
        y = mtf.keep(mtf.grouped_matmul(x, mtf.cast(self.kernel, dtype), sizes), DENSE)
        if self.bias is not None:
            one = mtf.Dimension("_one", 1)
            ones = mtf.ones(x.mesh, [x.shape[0], one], dtype)
            biases = mtf.reshape(mtf.cast(self.bias, dtype), [*sizes.shape, one, *self._new_dims])
            y = y + mtf.grouped_matmul(ones, biases, sizes)
        return y if self._activation is None else self._activation(y)

    def _input(self, x: mtf.Tensor) -> mtf.Tensor:
        for name, inner_name in self._renamed.items():
            x = mtf.rename_dimension(x, name, inner_name)
        return mtf.cast(x, self._dtypes.activation)


class DenseProduct(mtf.Module):
    """The product of activation_i(x * kernel_i); Shazeer 2020, arXiv:2002.05202.

    (mtf.gelu, None) is GEGLU, (mtf.swish, None) SwiGLU; one activation is a `Dense`.
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
        """Makes a map for every activation, None for the identity; `expert_dims` as in `Dense`."""
        super().__init__()
        make = functools.partial(
            Dense, mesh, reduced_dims, new_dims, dtypes, expert_dims=tuple(expert_dims)
        )
        self.factors = [make(use_bias=use_bias, activation=f) for f in activations]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., *new_dims} for x {..., *reduced_dims}."""
        return functools.reduce(mtf.multiply, (factor(x, call) for factor in self.factors))

    def map_rows(self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {rows, *new_dims} for x {rows, *reduced_dims}; see `Dense.map_rows`."""
        factors = (factor.map_rows(x, sizes, call) for factor in self.factors)
        return functools.reduce(mtf.multiply, factors)
