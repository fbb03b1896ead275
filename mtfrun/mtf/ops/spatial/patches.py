"""Convolutions as products of the filter with the patches that it covers, for every layout."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun.mtf.mesh import Mesh
from mtfrun.mtf.ops.spatial.batch_merging import merged_names, over_merged_batch
from mtfrun.mtf.ops.spatial.windows import Window, padded_value, taps
from mtfrun.mtf.shape import Shape
from mtfrun.mtf.tensor import Tensor


def by_patches(x: Tensor, filter: Tensor, windows: Sequence[Window]) -> tf.Tensor:
    """Returns the value of the convolution as a contraction of the filter with its patches of x."""
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
        # expand_dims and concat, because tf.stack loses the layout.
        patches = [
            tf.expand_dims(patch, last) for patch in taps(value, range(last - n, last), windows)
        ]
        stacked = patches[0] if num_taps == 1 else tf.concat(patches, last)
        if by_channels:
            return _product_of_patches(x.mesh, leading, stacked, kernel, out.name)
        kept = string.ascii_uppercase[:last]
        return tf.einsum(f"{kept}tc,tco->{kept}o", stacked, kernel)

    value = padded_value(x, range(num_leading, num_leading + n), windows)
    return over_merged_batch(contract, x, value, num_leading)


def _product_of_patches(
    mesh: Mesh, leading: Sequence[str], patches: tf.Tensor, kernel: tf.Tensor, out_name: str
) -> tf.Tensor:
    """Returns patches {*leading, *places, taps, channels} times {taps, channels, out}, out split.

    By itself DTensor would sum the gradient of all patches over the devices: as often as there are
    taps too much. Instead the result's gradient is gathered, and the filter split by its channels;
    then every device makes its part of the channels.
    """
    *sizes, num_taps, channels = patches.shape.as_list()
    names = [*leading, *(f"_place_{i}" for i in range(len(sizes) - len(leading)))]
    kept = string.ascii_uppercase[: len(sizes)]
    around = list(zip(names, sizes, strict=True))
    taps_dim, whole_out = ("_taps", num_taps), ("_out", kernel.shape[-1])
    # The part of the channels is on the axis of `out`: under its name, it is laid out like it.
    part = (out_name, channels)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(
        patches: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            whole = mesh.constrain(gradient, Shape([*around, whole_out]))
            by_channels = mesh.constrain(kernel, Shape([taps_dim, part, whole_out]))
            of_patches = tf.einsum(f"{kept}o,tco->{kept}tc", whole, by_channels)
            of_kernel = tf.einsum(f"{kept}tc,{kept}o->tco", patches, gradient)
            return mesh.constrain(of_patches, Shape([*around, taps_dim, part])), of_kernel

        return tf.einsum(f"{kept}tc,tco->{kept}o", patches, kernel), backward

    return product(patches, kernel)
