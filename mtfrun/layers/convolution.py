"""Convolutions with trained filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers.dense import Dense
from mtfrun.layers.layer import Call


class _Convolution(mtf.Module):
    """A trained filter without a bias, for `_convolve`: (x, filter, strides, padding, *blocks).

    `_default_size` and `_default_stride` are of each of `_spatial`; `_transposed`: output_dim
    first.
    """

    _convolve: ClassVar[Callable[..., mtf.Tensor]]
    _spatial: ClassVar[tuple[str, ...]]
    _default_size: ClassVar[int] = 3
    _default_stride: ClassVar[int] = 1
    _transposed: ClassVar[bool] = False

    def __init__(
        self,
        mesh: mtf.Mesh,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        filter_size: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        padding: str = "SAME",
        blocks: Sequence[mtf.Dimension | None] = (),
        filter_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
    ) -> None:
        """Makes the spec of the filter {*spatial, input_dim, output_dim}.

        `blocks` are the dimensions that count blocks of the first spatial dimensions, or None.
        """
        super().__init__()
        n = len(self._spatial)
        filter_size = [self._default_size] * n if filter_size is None else filter_size
        if len(filter_size) != n:
            sizes = f"filter_size={list(filter_size)} must be {n} number(s)"
            raise InputError(f"{type(self).__name__}: {sizes}, of {', '.join(self._spatial)}")
        self._strides = tuple([self._default_stride] * n if strides is None else strides)
        self._dtypes, self._padding, self._blocks = dtypes, padding, tuple(blocks)
        self._input_name = input_dim.name
        # Where input and output have dimensions of one name, the input's is renamed, as in `Dense`.
        # If the layout splits them, this gathers x: each device computes its part of the output.
        if input_dim.name == output_dim.name:
            input_dim = mtf.Dimension(f"_{input_dim.name}", input_dim.size)
        self._inner_name = input_dim.name
        spatial = [mtf.Dimension(*pair) for pair in zip(self._spatial, filter_size, strict=True)]
        channels = [output_dim, input_dim] if self._transposed else [input_dim, output_dim]
        initial = filter_initializer([*spatial, input_dim], [*spatial, output_dim])
        self.kernel = mtf.Variable(mesh, [*spatial, *channels], initial, dtypes.master)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., *spatial, output_dim} for x {..., *spatial, input_dim}."""
        dtype = self._dtypes.activation
        x = mtf.rename_dimension(mtf.cast(x, dtype), self._input_name, self._inner_name)
        kernel = mtf.cast(self.kernel, dtype)
        return self._convolve(x, kernel, self._strides, self._padding, *self._blocks)


class Conv1D(_Convolution):
    """`mtf.conv1d` with a trained filter {filter_width, input_dim, output_dim}, without blocks."""

    _spatial = ("filter_width",)
    _convolve = staticmethod(
        lambda x, kernel, strides, *args: mtf.conv1d(x, kernel, *strides, *args)
    )


class Conv2D(_Convolution):
    """`mtf.conv2d_with_blocks` by {height, width, input_dim, output_dim}; blocks of both."""

    _spatial = ("filter_height", "filter_width")
    _convolve = staticmethod(mtf.conv2d_with_blocks)


class Conv3D(_Convolution):
    """`mtf.conv3d_with_blocks` by {depth, height, width, input_dim, output_dim}; blocks of two."""

    _spatial = ("filter_depth", "filter_height", "filter_width")
    _convolve = staticmethod(mtf.conv3d_with_blocks)


class Conv2DTranspose(_Convolution):
    """`mtf.conv2d_transpose_with_blocks` by {height, width, output_dim, input_dim}."""

    _spatial = Conv2D._spatial
    _default_size = _default_stride = 2
    _transposed = True
    _convolve = staticmethod(mtf.conv2d_transpose_with_blocks)


class Conv3DTranspose(_Convolution):
    """`mtf.conv3d_transpose_with_blocks` by {depth, height, width, output_dim, input_dim}."""

    _spatial = Conv3D._spatial
    _default_size = _default_stride = 2
    _transposed = True
    _convolve = staticmethod(mtf.conv3d_transpose_with_blocks)


class DepthwiseConv2D(mtf.Module):
    """`mtf.depthwise_conv2d` with a trained filter {height, width, channels_dim} and a bias."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        channels_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        filter_size: Sequence[int] = (3, 3),
        padding: str = "SAME",
        blocks: Sequence[mtf.Dimension | None] = (),
        filter_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
        use_bias: bool = True,
    ) -> None:
        super().__init__()
        self._dtypes, self._padding, self._blocks = dtypes, padding, tuple(blocks)
        names = ("filter_height", "filter_width")
        size = [mtf.Dimension(*pair) for pair in zip(names, filter_size, strict=True)]
        initial = filter_initializer(size, size)
        self.kernel = mtf.Variable(mesh, [*size, channels_dim], initial, dtypes.master)
        self.bias = None
        if use_bias:
            self.bias = mtf.Variable(mesh, [channels_dim], dtype=dtypes.master, reduced_dims=())

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., height, width, channels_dim} for x of the same dimensions."""
        dtype = self._dtypes.activation
        kernel = mtf.cast(self.kernel, dtype)
        y = mtf.depthwise_conv2d(mtf.cast(x, dtype), kernel, self._padding, *self._blocks)
        return y if self.bias is None else y + mtf.cast(self.bias, dtype)


class SeparableConv1D(mtf.Module):
    """A depthwise convolution of a sequence, then a pointwise; Chollet 2016, arXiv:1610.02357."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        length_dim: mtf.Dimension,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        relative_positions: tuple[int, int] = (-1, 1),
        use_bias: bool = True,
    ) -> None:
        """Makes the specs of a filter {relative_position, input_dim} and its bias, and a `Dense`.

        Position l reads l + first ... l + last, `relative_positions` being (first, last).
        """
        super().__init__()
        self._dtypes, self._length = dtypes, length_dim
        self._first, last = relative_positions
        window = mtf.Dimension("relative_position", last - self._first + 1)
        initial = mtf.VarianceScaling()([window], [window])
        self.depthwise = mtf.Variable(mesh, [window, input_dim], initial, dtypes.master)
        self.bias = mtf.Variable(mesh, [input_dim], dtype=dtypes.master) if use_bias else None
        self.pointwise = Dense(mesh, [input_dim], [output_dim], dtypes, use_bias=use_bias)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., length, output_dim} for x {..., length, input_dim}."""
        dtype = self._dtypes.activation
        kernel = mtf.cast(self.depthwise, dtype)
        y = mtf.depthwise_conv1d(mtf.cast(x, dtype), kernel, self._length, self._first)
        if self.bias is not None:
            y = y + mtf.cast(self.bias, dtype)
        return self.pointwise(y, call)
