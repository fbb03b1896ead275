"""Depthwise convolutions are sums of shifted products, on one device and on meshes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import assert_close

BATCH, LENGTH, CHANNELS = 2, 8, 4


@pytest.mark.parametrize("first, size", [(-1, 3), (-2, 3), (0, 2), (1, 2), (-4, 2)])
@pytest.mark.parametrize(
    "mesh_shape, layout",
    [
        ("data:1,model:1", ""),
        ("data:2,model:2", "batch:data;channels:model"),
        ("data:4,model:2", "length:data;channels:model"),
    ],
)
def test_depthwise_convolution_sums_shifted_products(
    first: int, size: int, mesh_shape: str, layout: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, LENGTH, CHANNELS), np.float32)
    kernel = rng.standard_normal((size, CHANNELS), np.float32)
    cotangent = rng.standard_normal(x.shape, np.float32)
    padded = np.pad(x, [(0, 0), (LENGTH, LENGTH), (0, 0)])
    begins = [LENGTH + first + i for i in range(size)]
    expected = sum(padded[:, b : b + LENGTH] * w for b, w in zip(begins, kernel, strict=True))
    filter_gradient = [(padded[:, b : b + LENGTH] * cotangent).sum((0, 1)) for b in begins]
    input_gradient = np.zeros_like(padded)
    for begin, weights in zip(begins, kernel, strict=True):
        input_gradient[:, begin : begin + LENGTH] += cotangent * weights

    def run(x: mtf.Tensor, kernel: mtf.Tensor, cotangent: mtf.Tensor) -> list[mtf.Tensor | None]:
        y = mtf.depthwise_conv1d(x, kernel, x.shape[1], first)
        return [y, *mtf.gradients([y], [x, kernel], [cotangent])]

    mesh = mtf.Mesh(mesh_shape, layout)
    shape = f"batch:{BATCH};length:{LENGTH};channels:{CHANNELS}"
    y, of_x, of_kernel = mtf.function(run)(
        mtf.import_tf_tensor(mesh, x, shape),
        mtf.import_tf_tensor(mesh, kernel, f"taps:{size};channels:{CHANNELS}"),
        mtf.import_tf_tensor(mesh, cotangent, shape),
    )
    assert_close(mtf.to_numpy(y), expected)
    assert_close(mtf.to_numpy(of_x), input_gradient[:, LENGTH:-LENGTH])
    assert_close(mtf.to_numpy(of_kernel), np.stack(filter_gradient))


@pytest.mark.parametrize("sizes", [(3, 5), (2, 4), (7, 1)])
@pytest.mark.parametrize(
    "mesh_shape, layout, padding",
    [
        ("data:1,model:1", "", "SAME"),
        ("data:1,model:1", "", "VALID"),
        ("data:2,model:2", "batch:data", "SAME"),
        ("data:2,model:2", "batch:data;channels:model", "VALID"),
        # Parts of rows could not share the places of "VALID" equally.
        ("data:2,model:2", "batch:data;rows:model", "SAME"),
    ],
)
def test_depthwise_convolution_of_images_is_that_of_tensorflow(
    sizes: tuple[int, int], mesh_shape: str, layout: str, padding: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 7, 4), np.float32)
    kernel = rng.standard_normal((*sizes, 4), np.float32)
    with tf.GradientTape() as tape:
        variables = [tf.Variable(x), tf.Variable(kernel)]
        filters = tf.expand_dims(variables[1], -1)
        expected = tf.nn.depthwise_conv2d(variables[0], filters, [1, 1, 1, 1], padding)
        cotangent = rng.standard_normal(expected.shape, np.float32)
        product = tf.reduce_sum(expected * cotangent)
    gradients = tape.gradient(product, variables)

    def run(x: mtf.Tensor, kernel: mtf.Tensor) -> list[mtf.Tensor | None]:
        y = mtf.depthwise_conv2d(x, kernel, padding)
        total = mtf.reduce_sum(y * mtf.constant(y.mesh, cotangent, y.shape))
        return [y, *mtf.gradients([total], [x, kernel])]

    mesh = mtf.Mesh(mesh_shape, layout)
    results = mtf.function(run)(
        mtf.import_tf_tensor(mesh, x, "batch:2;rows:8;cols:7;channels:4"),
        mtf.import_tf_tensor(mesh, kernel, f"fh:{sizes[0]};fw:{sizes[1]};channels:4"),
    )
    for actual, value in zip(results, [expected, *gradients], strict=True):
        assert_close(mtf.to_numpy(actual), value.numpy())


def test_a_filter_of_other_channels_is_an_error() -> None:
    mesh = mtf.Mesh()
    with pytest.raises(mtf.ShapeError, match="must end in length and channels"):
        mtf.depthwise_conv1d(
            mtf.zeros(mesh, "length:8;channels:4"),
            mtf.zeros(mesh, "taps:3;channels:2"),
            "length:8",
            -1,
        )
