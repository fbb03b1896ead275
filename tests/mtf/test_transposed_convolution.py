"""Transposed convolutions, whole and in blocks, equal TensorFlow's, forward and gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import assert_close

BATCH, ROWS, COLUMNS, CHANNELS, OUT = 2, 4, 8, 2, 4
# (filter size, stride): side by side, with gaps, overlapping evenly and unevenly.
CALLS = [(2, 2), (1, 2), (3, 2), (4, 2), (3, 1), (5, 2)]
# Those whose blocks need no edges of others, those of one side, and of both.
FEW_CALLS = [(2, 2), (3, 2), (3, 1)]
ROWS_AND_COLUMNS = ("data:2,model:2", "row_blocks:data;column_blocks:model", (2, 2))
WHERE = [
    ("data:1,model:1", "", (2, 4), CALLS),
    (*ROWS_AND_COLUMNS, FEW_CALLS),
    *(
        pytest.param(*where, CALLS, marks=pytest.mark.slow)
        for where in (
            ("data:1,model:1", "", (1, 1)),
            ("data:2,model:1", "batch:data", (1, 2)),
            ROWS_AND_COLUMNS,
            ("data:2,model:2", "batch:data;out:model", (2, 1)),
            ("data:4,model:2", "column_blocks:data;channels:model", (1, 4)),
        )
    ),
]


def _normal(*sizes: int) -> np.ndarray:
    return np.random.default_rng(sum(sizes)).standard_normal(sizes, np.float32)


def _in_blocks(array: np.ndarray, blocking: tuple[int, int]) -> np.ndarray:
    batch, rows, columns, channels = array.shape
    r, c = blocking
    return array.reshape(batch, r, rows // r, c, columns // c, channels).transpose(0, 1, 3, 2, 4, 5)


def _transposed(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns TensorFlow's transposed convolution with "SAME"."""
    if kernel.shape[0] > 1:
        sizes = [BATCH, ROWS * stride, COLUMNS * stride, OUT]
        return tf.nn.conv2d_transpose(x, kernel, sizes, stride, "SAME")
    # TensorFlow's own gradient of a strided 1x1 convolution crashes on some CPUs.
    y = tf.einsum("brcf,of->brco", x, kernel[0, 0])[:, :, None, :, None]
    zeros = [0, stride - 1]
    y = tf.pad(y, [[0, 0], [0, 0], zeros, [0, 0], zeros, [0, 0]])
    return tf.reshape(y, [BATCH, ROWS * stride, COLUMNS * stride, OUT])


@pytest.mark.parametrize("mesh_shape, layout, blocking, calls", WHERE)
def test_blocks_change_no_transposed_convolution(
    mesh_shape: str, layout: str, blocking: tuple[int, int], calls: list[tuple[int, int]]
) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    x, operands, references = _normal(BATCH, ROWS, COLUMNS, CHANNELS), [], []
    for size, stride in calls:
        kernel = _normal(size, size, OUT, CHANNELS)
        cotangent = _normal(BATCH, ROWS * stride, COLUMNS * stride, OUT)
        with tf.GradientTape() as tape:
            sources = tf.constant(x), tf.constant(kernel)
            tape.watch(sources)
            y = _transposed(*sources, stride)
        gradients = tape.gradient(y, sources, cotangent)
        references.append([y.numpy(), gradients[0].numpy(), gradients[1].numpy()])
        names = ["batch", "row_blocks", "column_blocks", "rows", "columns"]
        operands.append(
            [
                mtf.import_tf_tensor(mesh, array, mtf.Shape(zip(dims, array.shape, strict=True)))
                for array, dims in [
                    (_in_blocks(x, blocking), [*names, "channels"]),
                    (kernel, ["filter_rows", "filter_columns", "out", "channels"]),
                    (_in_blocks(cotangent, blocking), [*names, "out"]),
                ]
            ]
        )

    def run(operands: list[list[mtf.Tensor]]) -> list[list[mtf.Tensor | None]]:
        results = []
        for (_, stride), (x, kernel, cotangent) in zip(calls, operands, strict=True):
            y = mtf.conv2d_transpose_with_blocks(
                x, kernel, [stride] * 2, "SAME", x.shape[1], x.shape[2]
            )
            results.append([y, *mtf.gradients([y], [x, kernel], [cotangent])])
        return results

    for results, expected in zip(mtf.function(run)(operands), references, strict=True):
        y, x_gradient, filter_gradient = expected
        assert_close(mtf.to_numpy(results[0]), _in_blocks(y, blocking))
        assert_close(mtf.to_numpy(results[1]), _in_blocks(x_gradient, blocking))
        assert_close(mtf.to_numpy(results[2]), filter_gradient)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size, stride", CALLS)
def test_a_whole_transposed_convolution_equals_tensorflows(
    size: int, stride: int, padding: str
) -> None:
    x, kernel = _normal(BATCH, ROWS, COLUMNS, CHANNELS), _normal(size, size, OUT, CHANNELS)
    overlap = max(0, size - stride) if padding == "VALID" else 0
    sizes = [BATCH, ROWS * stride + overlap, COLUMNS * stride + overlap, OUT]
    mesh = mtf.Mesh()
    y = mtf.conv2d_transpose(
        mtf.import_tf_tensor(mesh, x, f"b:{BATCH};h:{ROWS};w:{COLUMNS};c:{CHANNELS}"),
        mtf.import_tf_tensor(mesh, kernel, f"fh:{size};fw:{size};o:{OUT};c:{CHANNELS}"),
        [stride, stride],
        padding,
    )
    assert y.shape.dimension_names == ["b", "h", "w", "o"]
    assert_close(mtf.to_numpy(y), tf.nn.conv2d_transpose(x, kernel, sizes, stride, padding))


@pytest.mark.parametrize("function", [mtf.conv2d, mtf.conv2d_transpose])
def test_wrong_operands_are_one_line_with_the_remedy(function: Callable[..., mtf.Tensor]) -> None:
    mesh = mtf.Mesh()
    x = mtf.zeros(mesh, "b:1;h:4;w:4;c:3")
    for filter_shape, message in [
        ("fh:3;fw:3;c:2;o:2", "takes"),
        ("fh:3;c:3", "must have 2 spatial dimensions"),
    ]:
        with pytest.raises(mtf.ShapeError, match=message) as raised:
            function(x, mtf.zeros(mesh, filter_shape))
        assert "\n" not in str(raised.value)
    square = mtf.zeros(mesh, "fh:3;fw:3;c:3;c_out:3")
    if function is mtf.conv2d_transpose:
        square = mtf.zeros(mesh, "fh:3;fw:3;c_out:3;c:3")
    with pytest.raises(mtf.ShapeError, match="'SAME' or 'VALID'"):
        function(x, square, [1, 1], "FULL")
    with pytest.raises(mtf.ShapeError, match="2 positive numbers"):
        function(x, square, [1, 0])


def test_a_window_longer_than_its_dimension_is_an_error() -> None:
    mesh = mtf.Mesh()
    for size in (5, 6):
        with pytest.raises(mtf.ShapeError, match=f"window of {size} is longer than h"):
            mtf.conv2d(
                mtf.zeros(mesh, "b:1;h:4;w:9;c:1"),
                mtf.zeros(mesh, f"fh:{size};fw:1;c:1;o:1"),
                padding="VALID",
            )


def test_positions_are_not_split_beside_their_blocks() -> None:
    mesh = mtf.Mesh("data:2,model:1", "h:data")
    x, kernel = mtf.zeros(mesh, "hb:2;h:4;w:4;c:1"), mtf.zeros(mesh, "fh:3;fw:3;c:1;o:1")
    with pytest.raises(mtf.LayoutError, match="lay out the blocks only"):
        mtf.conv2d_with_blocks(x, kernel, h_blocks_dim="hb:2")


def test_filters_are_split_by_channels_only() -> None:
    mesh = mtf.Mesh("data:2,model:1", "fh:data")
    with pytest.raises(mtf.LayoutError, match="drop the rule of fh"):
        mtf.conv2d(mtf.zeros(mesh, "b:2;h:4;w:4;c:1"), mtf.zeros(mesh, "fh:2;fw:2;c:1;o:1"))
