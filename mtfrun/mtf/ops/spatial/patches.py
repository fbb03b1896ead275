"""Composed convolutions: products of the filter with the patches that it covers."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun.mtf import engine
from mtfrun.mtf.mesh import Mesh
from mtfrun.mtf.ops.spatial.windows import Window, merged_names, over_merged_batch, pad_value, taps
from mtfrun.mtf.shape import Shape
from mtfrun.mtf.tensor import Tensor


def convolve_patches(x: Tensor, filter: Tensor, windows: Sequence[Window]) -> tf.Tensor:
    """Returns a convolution's value, for any layout: the filter contracted with patches of x."""
    channels, out = filter.shape.dims[-2:]
    n = len(windows)
    num_leading = x.shape.ndims - n - 1
    num_taps = math.prod(window.size for window in windows)
    kernel = tf.reshape(filter.value, [num_taps, channels.size, out.size])
    num_splits = x.mesh.num_splits(out)
    by_channels = (
        num_splits > 1 and x.mesh.num_splits(channels) == 1 and channels.size % num_splits == 0
    )
    leading = merged_names(x, num_leading)

    def contract(value: tf.Tensor) -> tf.Tensor:
        last = value.shape.rank - 1
        stacked = engine.stack(list(taps(value, range(last - n, last), windows)), last)
        if by_channels:
            return _product_of_patches(x.mesh, leading, stacked, kernel, out.name)
        outer = string.ascii_uppercase[:last]
        return tf.einsum(f"{outer}tc,tco->{outer}o", stacked, kernel)

    value = pad_value(x, range(num_leading, num_leading + n), windows)
    return over_merged_batch(contract, x, value, num_leading)


def _product_of_patches(
    mesh: Mesh, leading: Sequence[str], patches: tf.Tensor, kernel: tf.Tensor, out_name: str
) -> tf.Tensor:
    """Returns patches {*leading, *places, taps, channels} times {taps, channels, out}, out split.

    DTensor would all-reduce the gradient of all patches, `taps` times too much. Instead the
    result's gradient is gathered and the filter split by its channels, of which a device has a
    part.
    """
    *sizes, num_taps, channels = patches.shape.as_list()
    names = [*leading, *(f"_place_{i}" for i in range(len(sizes) - len(leading)))]
    outer = string.ascii_uppercase[: len(sizes)]
    outer_dims = list(zip(names, sizes, strict=True))
    taps_dim, whole_out = ("_taps", num_taps), ("_out", kernel.shape[-1])
    # The channels are split over the axis of `out`: with its name they are laid out by its rule.
    part = (out_name, channels)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(
        patches: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            whole = mesh.constrain(gradient, Shape([*outer_dims, whole_out]))
            by_channels = mesh.constrain(kernel, Shape([taps_dim, part, whole_out]))
            of_patches = tf.einsum(f"{outer}o,tco->{outer}tc", whole, by_channels)
            of_kernel = tf.einsum(f"{outer}tc,{outer}o->tco", patches, gradient)
            return mesh.constrain(of_patches, Shape([*outer_dims, taps_dim, part])), of_kernel

        return tf.einsum(f"{outer}tc,tco->{outer}o", patches, kernel), backward

    return product(patches, kernel)
