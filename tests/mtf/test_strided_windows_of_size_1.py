"""Strided windows of size 1, which TensorFlow's fused kernels get without their stride.

With the stride, TensorFlow 2.21 (oneDNN) corrupts memory in the filter gradient of a 1x1
convolution, and the process dies sooner or later, on many processors but not on all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import assert_close

# Batch, rows, columns, channels, out: sizes with which the process died within 60 calls.
SIZES = [(8, 32, 96, 2, 2), (8, 32, 96, 4, 4), (8, 64, 64, 2, 2), (8, 32, 96, 3, 4)]

Operation = Callable[[mtf.Tensor, mtf.Tensor], mtf.Tensor]
IMAGE, KERNEL = "b:2;h:4;w:8;c:2", "fh:1;fw:1;c:2;o:2"
BLOCKS, VOLUME, KERNEL_3D = "b:2;hb:2;h:4;w:8;c:2", "b:2;d:4;h:4;w:8;c:2", "fd:1;fh:1;fw:1;c:2;o:2"
UPWARDS, UPWARDS_3D = "fh:1;fw:1;o:2;c:2", "fd:1;fh:1;fw:1;o:2;c:2"
FORMS: dict[str, tuple[str, str, Operation]] = {
    "conv1d": ("b:2;l:8;c:2", "f:1;c:2;o:2", lambda x, f: mtf.conv1d(x, f, 2)),
    "conv2d": (IMAGE, KERNEL, lambda x, f: mtf.conv2d(x, f, [2, 3])),
    "conv2d of one column": (IMAGE, "fh:3;fw:1;c:2;o:2", lambda x, f: mtf.conv2d(x, f, [1, 2])),
    "conv2d, VALID": (IMAGE, KERNEL, lambda x, f: mtf.conv2d(x, f, [2, 2], "VALID")),
    "conv2d in blocks": (
        BLOCKS,
        KERNEL,
        lambda x, f: mtf.conv2d_with_blocks(x, f, [2, 2], "SAME", "hb:2"),
    ),
    "conv3d": (VOLUME, KERNEL_3D, lambda x, f: mtf.conv3d(x, f, [2, 2, 2])),
    "conv2d_transpose": (IMAGE, UPWARDS, lambda x, f: mtf.conv2d_transpose(x, f, [2, 2])),
    "conv2d_transpose, VALID": (
        IMAGE,
        UPWARDS,
        lambda x, f: mtf.conv2d_transpose(x, f, [2, 3], "VALID"),
    ),
    "conv3d_transpose": (VOLUME, UPWARDS_3D, lambda x, f: mtf.conv3d_transpose(x, f, [2, 2, 2])),
    "max pooling": (
        IMAGE,
        KERNEL,
        lambda x, f: mtf.max_pool2d_with_blocks(x, [1, 1], [2, 2]) * mtf.reduce_sum(f),
    ),
}


@pytest.mark.parametrize("batch, rows, columns, channels, out", SIZES)
def test_gradients_of_a_strided_1x1_convolution_are_those_of_a_product(
    batch: int, rows: int, columns: int, channels: int, out: int
) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, rows, columns, channels), np.float32)
    kernel = rng.standard_normal((channels, out), np.float32)
    mesh = mtf.Mesh()
    x = mtf.import_tf_tensor(mesh, image, f"b:{batch};h:{rows};w:{columns};c:{channels}")
    f = mtf.import_tf_tensor(mesh, kernel[None, None], f"fh:1;fw:1;c:{channels};o:{out}")

    def gradients(x: mtf.Tensor, f: mtf.Tensor) -> list[mtf.Tensor | None]:
        y = mtf.conv2d(x, f, [2, 2])
        return mtf.gradients([mtf.reduce_sum(y * y)], [x, f])

    function = mtf.function(gradients)
    # Corrupted memory has consequences only after some calls.
    for _ in range(60):
        of_x, of_filter = function(x, f)
    strided = image[:, ::2, ::2]
    y = strided @ kernel
    expected = np.zeros_like(image)
    expected[:, ::2, ::2] = 2 * y @ kernel.T
    assert_close(mtf.to_numpy(of_x), expected)
    assert_close(mtf.to_numpy(of_filter)[0, 0], 2 * np.einsum("bhwc,bhwo->co", strided, y))


@pytest.mark.parametrize("form", FORMS)
def test_no_kernel_gets_a_stride_over_a_window_of_size_1(form: str) -> None:
    x_shape, filter_shape, operation = FORMS[form]
    mesh = mtf.Mesh()

    def gradients(x: tf.Tensor, f: tf.Tensor) -> list[tf.Tensor]:
        tensors = [
            mtf.import_tf_tensor(mesh, value, shape)
            for value, shape in ((x, x_shape), (f, filter_shape))
        ]
        y = operation(*tensors)
        of_inputs = mtf.gradients([mtf.reduce_sum(y * y)], tensors)
        return [gradient.value for gradient in of_inputs if gradient is not None]

    specs = [
        tf.TensorSpec(mtf.convert_to_shape(shape).to_integer_list)
        for shape in (x_shape, filter_shape)
    ]
    program = tf.function(gradients, autograph=False).get_concrete_function(*specs)
    kernels = [op for op in program.graph.get_operations() if op.type.startswith(("Conv", "Max"))]
    kernels = [op for op in kernels if "strides" in op.node_def.attr]
    assert len(kernels) >= (1 if form == "max pooling" else 3)
    for op in kernels:
        assert list(op.get_attr("strides")) == [1] * len(op.get_attr("strides")), op.type
