"""Convolutions with trained filters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from mtfrun import mtf
from mtfrun.layers.dense import Dense

_SPATIAL = ("filter_depth", "filter_height", "filter_width")


class _Convolution(mtf.Module):
    """The filter of a convolution, and what its subclasses share."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        filter_size: Sequence[int],
        initializer: mtf.VarianceScaling,
        convolve: Callable[[mtf.Tensor, mtf.Tensor], mtf.Tensor],
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self._dtypes = dtypes
        self._convolve = convolve
        self._input_name = input_dim.name
        # A filter from one dimension to another of its name: as in `Dense`, the input's is renamed.
        # Channels that are split are gathered by that: every device makes its part of the output.
        if input_dim.name == output_dim.name:
            input_dim = mtf.Dimension(f"_{input_dim.name}", input_dim.size)
        self._inner_name = input_dim.name
        names = _SPATIAL[-len(filter_size) :]
        spatial = [mtf.Dimension(*pair) for pair in zip(names, filter_size, strict=True)]
        channels = [output_dim, input_dim] if transposed else [input_dim, output_dim]
        initial = initializer([*spatial, input_dim], [*spatial, output_dim])
        self.kernel = mtf.Variable(mesh, [*spatial, *channels], initial, dtypes.master)

    def __call__(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., *spatial, output_dim} for x {..., *spatial, input_dim}."""
        dtype = self._dtypes.activation
        x = mtf.rename_dimension(mtf.cast(x, dtype), self._input_name, self._inner_name)
        return self._convolve(x, mtf.cast(self.kernel, dtype))


class Conv1D(_Convolution):
    """`mtf.conv1d` with a trained filter {filter_width, input_dim, output_dim}, without a bias."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        filter_size: int = 3,
        stride: int = 1,
        padding: str = "SAME",
        filter_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
    ) -> None:
        """Makes the spec of the filter."""
        convolve = functools.partial(mtf.conv1d, stride=stride, padding=padding)
        super().__init__(
            mesh, input_dim, output_dim, dtypes, [filter_size], filter_initializer, convolve
        )


class Conv2D(_Convolution):
    """`mtf.conv2d_with_blocks` with a trained filter, without a bias."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        filter_size: Sequence[int] = (3, 3),
        strides: Sequence[int] = (1, 1),
        padding: str = "SAME",
        h_blocks_dim: mtf.Dimension | None = None,
        w_blocks_dim: mtf.Dimension | None = None,
        filter_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
    ) -> None:
        """Makes the spec of the filter {filter_height, filter_width, input_dim, output_dim}."""
        convolve = functools.partial(
            mtf.conv2d_with_blocks,
            strides=strides,
            padding=padding,
            h_blocks_dim=h_blocks_dim,
            w_blocks_dim=w_blocks_dim,
        )
        super().__init__(
            mesh, input_dim, output_dim, dtypes, filter_size, filter_initializer, convolve
        )


class Conv3D(_Convolution):
    """`mtf.conv3d_with_blocks` with a trained filter, without a bias."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        filter_size: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] = (1, 1, 1),
        padding: str = "SAME",
        d_blocks_dim: mtf.Dimension | None = None,
        h_blocks_dim: mtf.Dimension | None = None,
        filter_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
    ) -> None:
        """Makes the spec of the filter {depth, height, width, input_dim, output_dim}."""
        convolve = functools.partial(
            mtf.conv3d_with_blocks,
            strides=strides,
            padding=padding,
            d_blocks_dim=d_blocks_dim,
            h_blocks_dim=h_blocks_dim,
        )
        super().__init__(
            mesh, input_dim, output_dim, dtypes, filter_size, filter_initializer, convolve
        )


class Conv2DTranspose(_Convolution):
    """`mtf.conv2d_transpose_with_blocks` with a trained filter, without a bias."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        filter_size: Sequence[int] = (2, 2),
        strides: Sequence[int] = (2, 2),
        padding: str = "SAME",
        h_blocks_dim: mtf.Dimension | None = None,
        w_blocks_dim: mtf.Dimension | None = None,
        filter_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
    ) -> None:
        """Makes the spec of the filter {filter_height, filter_width, output_dim, input_dim}."""
        convolve = functools.partial(
            mtf.conv2d_transpose_with_blocks,
            strides=strides,
            padding=padding,
            h_blocks_dim=h_blocks_dim,
            w_blocks_dim=w_blocks_dim,
        )
        super().__init__(
            mesh, input_dim, output_dim, dtypes, filter_size, filter_initializer, convolve, True
        )


class Conv3DTranspose(_Convolution):
    """`mtf.conv3d_transpose_with_blocks` with a trained filter, without a bias."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        filter_size: Sequence[int] = (2, 2, 2),
        strides: Sequence[int] = (2, 2, 2),
        padding: str = "SAME",
        d_blocks_dim: mtf.Dimension | None = None,
        h_blocks_dim: mtf.Dimension | None = None,
        filter_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
    ) -> None:
        """Makes the spec of the filter {depth, height, width, output_dim, input_dim}."""
        convolve = functools.partial(
            mtf.conv3d_transpose_with_blocks,
            strides=strides,
            padding=padding,
            d_blocks_dim=d_blocks_dim,
            h_blocks_dim=h_blocks_dim,
        )
        super().__init__(
            mesh, input_dim, output_dim, dtypes, filter_size, filter_initializer, convolve, True
        )


class SeparableConv1D(mtf.Module):
    """Every channel filtered along a sequence by itself, then all mixed at every position.

    The separable convolution of Chollet 2016, arXiv:1610.02357, in one dimension.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        length_dim: mtf.Dimension,
        input_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        min_relative_pos: int = -1,
        max_relative_pos: int = 1,
        depthwise_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
        pointwise_initializer: mtf.VarianceScaling = mtf.initializers.VarianceScaling(),
        use_bias: bool = True,
    ) -> None:
        """Makes the specs of a filter {relative_position, input_dim}, its bias, and the mixing map.

        Position l sees the positions l + min_relative_pos ... l + max_relative_pos.
        """
        super().__init__()
        self._dtypes = dtypes
        self._length = length_dim
        self._first = min_relative_pos
        window = mtf.Dimension("relative_position", max_relative_pos - min_relative_pos + 1)
        initial = depthwise_initializer([window], [window])
        self.depthwise = mtf.Variable(mesh, [window, input_dim], initial, dtypes.master)
        self.bias = mtf.Variable(mesh, [input_dim], dtype=dtypes.master) if use_bias else None
        self.pointwise = Dense(
            mesh,
            [input_dim],
            [output_dim],
            dtypes,
            use_bias=use_bias,
            kernel_initializer=pointwise_initializer,
        )

    def __call__(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., length, output_dim} for x {..., length, input_dim}."""
        dtype = self._dtypes.activation
        kernel = mtf.cast(self.depthwise, dtype)
        y = mtf.depthwise_conv1d(mtf.cast(x, dtype), kernel, self._length, self._first)
        return self.pointwise(y if self.bias is None else y + mtf.cast(self.bias, dtype))
