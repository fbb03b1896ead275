"""Pooling, depthwise convolutions and strided windows, in blocks and whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import assert_close

SIZES = (4, 8, 8, 2)
WHERE = [
    ("data:1,model:1", ""),
    ("data:2,model:1", "batch:data"),
    ("data:2,model:2", "row_blocks:data;column_blocks:model"),
    ("data:2,model:2", "batch:data;channels:model"),
    ("data:4,model:2", "batch:data;row_blocks:model"),
]


def _relu_like() -> np.ndarray:
    """Returns an image with many equal entries, most of them zero, as after a relu."""
    integers = np.random.default_rng(0).integers(-3, 4, SIZES)
    return np.maximum(integers, 0).astype(np.float32)


def _in_blocks(array: np.ndarray) -> np.ndarray:
    batch, rows, columns, channels = array.shape
    return array.reshape(batch, 2, rows // 2, 2, columns // 2, channels).transpose(0, 1, 3, 2, 4, 5)


def _named(mesh: mtf.Mesh, array: np.ndarray) -> mtf.Tensor:
    names = ["batch", "row_blocks", "column_blocks", "rows", "columns", "channels"]
    return mtf.import_tf_tensor(mesh, array, mtf.Shape(zip(names, array.shape, strict=True)))


# In the default suite all are on one device, and one is on every mesh.
WINDOWS = [(3, 2, "SAME"), (2, 2, "VALID"), (3, 1, "SAME"), (1, 2, "VALID")]


@pytest.mark.parametrize(
    "size, stride, padding, mesh_shape, layout",
    [
        pytest.param(
            *window,
            *where,
            marks=[] if window == WINDOWS[0] or where == WHERE[0] else pytest.mark.slow,
        )
        for window in WINDOWS
        for where in WHERE
    ],
)
def test_max_pooling_in_blocks_equals_the_whole(
    size: int, stride: int, padding: str, mesh_shape: str, layout: str
) -> None:
    x = tf.constant(_relu_like())
    around = [size // 2, (size - 1) // 2] if padding == "SAME" else [0, 0]
    with tf.GradientTape() as tape:
        tape.watch(x)
        padded = tf.pad(x, [[0, 0], around, around, [0, 0]], constant_values=-9.0)
        y = tf.nn.max_pool2d(padded, size, stride, "VALID")
    cotangent = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    expected = tape.gradient(y, x, cotangent)

    def run(x: mtf.Tensor, cotangent: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor | None]:
        y = mtf.max_pool2d_with_blocks(
            x, [size, size], [stride, stride], padding, x.shape[1], x.shape[2]
        )
        return y, mtf.gradients([y], [x], [cotangent])[0]

    mesh = mtf.Mesh(mesh_shape, layout)
    result, gradient = mtf.function(run)(
        _named(mesh, _in_blocks(x.numpy())), _named(mesh, _in_blocks(cotangent))
    )
    assert_close(mtf.to_numpy(result), _in_blocks(y.numpy()))
    assert_close(mtf.to_numpy(gradient), _in_blocks(expected.numpy()))


@pytest.mark.parametrize(
    "mesh_shape, layout", [*WHERE, ("data:2,model:2", "rows:data;batch:model")]
)
def test_pooling_drops_entries_that_do_not_fill_a_window(mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    x = _relu_like()[:, :, :7]
    tensor = mtf.import_tf_tensor(mesh, x, "batch:4;rows:8;columns:7;channels:2")
    for ours, theirs in [(mtf.max_pool2d, tf.nn.max_pool2d), (mtf.avg_pool2d, tf.nn.avg_pool2d)]:
        y = mtf.function(lambda tensor, ours=ours: ours(tensor, [2, 3]))(tensor)
        assert_close(mtf.to_numpy(y), theirs(x, [2, 3], [2, 3], "VALID"))


@pytest.mark.parametrize("mesh_shape, layout", [WHERE[0], WHERE[1], WHERE[3]])
def test_pooling_of_volumes_equals_tensorflows(mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    x = np.random.default_rng(0).standard_normal((4, 4, 4, 6, 2)).astype(np.float32)
    tensor = mtf.import_tf_tensor(mesh, x, "batch:4;depth:4;rows:4;columns:6;channels:2")
    for ours, theirs in [(mtf.max_pool3d, tf.nn.max_pool3d), (mtf.avg_pool3d, tf.nn.avg_pool3d)]:
        y = mtf.function(lambda tensor, ours=ours: ours(tensor, [2, 2, 3]))(tensor)
        assert_close(mtf.to_numpy(y), theirs(x, [2, 2, 3], [2, 2, 3], "VALID"))


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
    with pytest.raises(mtf.ShapeError, match="depthwise_conv1d needs x"):
        mtf.depthwise_conv1d(
            mtf.zeros(mesh, "length:8;channels:4"),
            mtf.zeros(mesh, "taps:3;channels:2"),
            "length:8",
            -1,
        )


# Batch, rows, columns, channels, out: sizes with which the process died within 60 calls.
STRIDED_SIZES = [(8, 32, 96, 2, 2), (8, 32, 96, 4, 4), (8, 64, 64, 2, 2), (8, 32, 96, 3, 4)]

Operation = Callable[[mtf.Tensor, mtf.Tensor], mtf.Tensor]
IMAGE, KERNEL = "b:2;h:4;w:8;c:2", "fh:1;fw:1;c:2;o:2"
FORMS: dict[str, tuple[str, str, Operation]] = {
    "conv2d": (IMAGE, KERNEL, lambda x, f: mtf.conv2d(x, f, [2, 3])),
    "conv2d of one column": (IMAGE, "fh:3;fw:1;c:2;o:2", lambda x, f: mtf.conv2d(x, f, [1, 2])),
    "conv2d, VALID": (IMAGE, KERNEL, lambda x, f: mtf.conv2d(x, f, [2, 2], "VALID")),
    "conv3d": (
        "b:2;d:4;h:4;w:8;c:2",
        "fd:1;fh:1;fw:1;c:2;o:2",
        lambda x, f: mtf.conv3d(x, f, [2, 2, 2]),
    ),
    "max pooling": (
        IMAGE,
        KERNEL,
        lambda x, f: mtf.max_pool2d_with_blocks(x, [1, 1], [2, 2]) * mtf.reduce_sum(f),
    ),
}


@pytest.mark.parametrize("batch, rows, columns, channels, out", STRIDED_SIZES)
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
