"""A convolution of an image in blocks equals the whole image's, forward and gradient.

For every blocking, kernel, stride, padding and layout. The reference is TensorFlow's convolution
of the whole image with explicit padding.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import FLOAT32_OP_TOLERANCE, assert_close

BATCH, ROWS, COLUMNS, CHANNELS, OUT = 4, 8, 16, 4, 4
ONE_DEVICE = ("data:1,model:1", "")
BLOCKINGS = list(itertools.product([1, 2, 4], [1, 2, 4]))
QUICK = [(*ONE_DEVICE, (4, 2)), ("data:2,model:2", "column_blocks:data;channels:model", (4, 4))]
# Mesh, layout, and the numbers of blocks of rows and columns.
LAYOUTS = [
    (*ONE_DEVICE, (2, 4)),
    ("data:2,model:1", "batch:data", (4, 4)),
    ("data:2,model:1", "row_blocks:data", (4, 4)),
    ("data:1,model:4", "column_blocks:model", (2, 4)),
    ("data:4,model:2", "row_blocks:data;column_blocks:model", (4, 4)),
    ("data:2,model:2", "batch:data;row_blocks:model", (4, 2)),
    ("data:4,model:2", "batch:data;column_blocks:model", (1, 4)),
    ("data:2,model:2", "row_blocks:data;out:model", (2, 4)),
    ("data:2,model:2", "column_blocks:data;channels:model", (4, 4)),
]


class Call(NamedTuple):
    """The arguments of one convolution with a square filter."""

    kernel: int
    stride: int
    padding: str


CALLS = [Call(*c) for c in itertools.product([1, 2, 3, 5, 7], [1, 2], ["SAME", "VALID"])]
# One of every kind: a 1x1, an even, a common and a wide strided filter.
FEW_CALLS = [Call(1, 2, "SAME"), Call(2, 1, "SAME"), Call(3, 1, "VALID"), Call(7, 2, "SAME")]


def _places(length: int, call: Call) -> int:
    covered = call.kernel - 1 if call.padding == "SAME" else 0
    return (length + covered - call.kernel) // call.stride + 1


def _can_share(call: Call, blocking: tuple[int, int]) -> bool:
    """Returns whether the results can be divided equally among the blocks."""
    rows, columns = _places(ROWS, call), _places(COLUMNS, call)
    return rows % blocking[0] == 0 and columns % blocking[1] == 0


def _image(call: Call) -> np.ndarray:
    rng = np.random.default_rng(call.kernel)
    return rng.standard_normal((BATCH, ROWS, COLUMNS, CHANNELS), np.float32)


def _filter(call: Call) -> np.ndarray:
    rng = np.random.default_rng(100 + call.kernel)
    return rng.standard_normal((call.kernel, call.kernel, CHANNELS, OUT), np.float32)


def _cotangent(call: Call) -> np.ndarray:
    sizes = (BATCH, _places(ROWS, call), _places(COLUMNS, call), OUT)
    return np.random.default_rng(7).standard_normal(sizes, np.float32)


@functools.cache
def _whole(call: Call) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the result, and the gradients of image and filter, without blocks."""
    x, kernel = tf.constant(_image(call)), tf.constant(_filter(call))
    around = [call.kernel // 2, (call.kernel - 1) // 2] if call.padding == "SAME" else [0, 0]
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        padded = tf.pad(x, [[0, 0], around, around, [0, 0]])
        if call.kernel == 1:
            # TensorFlow's gradient of a strided 1x1 convolution crashes on some CPUs.
            strided = padded[:, :: call.stride, :: call.stride]
            y = tf.einsum("brcf,fo->brco", strided, kernel[0, 0])
        else:
            y = tf.nn.conv2d(padded, kernel, call.stride, "VALID")
    gradients = tape.gradient(y, [x, kernel], _cotangent(call))
    return y.numpy(), *(g.numpy() for g in gradients)


def _in_blocks(array: np.ndarray, blocking: tuple[int, int]) -> np.ndarray:
    batch, rows, columns, channels = array.shape
    r, c = blocking
    return array.reshape(batch, r, rows // r, c, columns // c, channels).transpose(0, 1, 3, 2, 4, 5)


def _named(mesh: mtf.Mesh, array: np.ndarray, channels: str) -> mtf.Tensor:
    names = ["batch", "row_blocks", "column_blocks", "rows", "columns", channels]
    return mtf.import_tf_tensor(mesh, array, mtf.Shape(zip(names, array.shape, strict=True)))


def _check(mesh_shape: str, layout: str, blocking: tuple[int, int], calls: list[Call]) -> None:
    """Raises unless every call in blocks has the result and gradients of the whole image."""
    mesh = mtf.Mesh(mesh_shape, layout)
    calls = [call for call in calls if _can_share(call, blocking)]
    operands = [
        (
            _named(mesh, _in_blocks(_image(call), blocking), "channels"),
            mtf.import_tf_tensor(
                mesh,
                _filter(call),
                f"filter_rows:{call.kernel};filter_columns:{call.kernel};"
                f"channels:{CHANNELS};out:{OUT}",
            ),
            _named(mesh, _in_blocks(_cotangent(call), blocking), "out"),
        )
        for call in calls
    ]

    def run(operands: list[tuple[mtf.Tensor, ...]]) -> list[list[mtf.Tensor | None]]:
        results = []
        for call, (x, kernel, cotangent) in zip(calls, operands, strict=True):
            y = mtf.conv2d_with_blocks(
                x, kernel, [call.stride] * 2, call.padding, x.shape[1], x.shape[2]
            )
            results.append([y, *mtf.gradients([y], [x, kernel], [cotangent])])
        return results

    for call, results in zip(calls, mtf.function(run)(operands), strict=True):
        y, image_gradient, filter_gradient = _whole(call)
        in_blocks = [_in_blocks(y, blocking), _in_blocks(image_gradient, blocking)]
        for actual, expected in zip(results, [*in_blocks, filter_gradient], strict=True):
            assert_close(mtf.to_numpy(actual), expected, FLOAT32_OP_TOLERANCE)


@pytest.mark.parametrize("mesh_shape, layout, blocking", QUICK)
def test_blocks_change_nothing_under_layouts(
    mesh_shape: str, layout: str, blocking: tuple[int, int]
) -> None:
    _check(mesh_shape, layout, blocking, FEW_CALLS)


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape, layout, blocking", LAYOUTS)
def test_every_convolution_in_blocks_equals_the_whole_under_every_layout(
    mesh_shape: str, layout: str, blocking: tuple[int, int]
) -> None:
    _check(mesh_shape, layout, blocking, CALLS)


@pytest.mark.parametrize(
    "call", [c for c in CALLS if c.padding == "VALID" or (c.stride == 1 and c.kernel % 2)]
)
def test_the_whole_image_is_tensorflows_convolution(call: Call) -> None:
    # Where the centred padding is TensorFlow's, and always with VALID.
    y = tf.nn.conv2d(_image(call), _filter(call), call.stride, call.padding)
    assert_close(_whole(call)[0], y)


@pytest.mark.parametrize("call", [Call(3, 2, "SAME"), Call(2, 1, "SAME"), Call(5, 2, "VALID")])
@pytest.mark.parametrize("mesh_shape, layout", [ONE_DEVICE, LAYOUTS[1][:2]])
def test_a_blocks_dimension_of_size_1_may_be_absent(
    mesh_shape: str, layout: str, call: Call
) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    names = ["batch", "rows", "columns", "channels"]
    x = mtf.import_tf_tensor(
        mesh, _image(call), mtf.Shape(zip(names, _image(call).shape, strict=True))
    )
    kernel = mtf.import_tf_tensor(
        mesh, _filter(call), f"h:{call.kernel};w:{call.kernel};channels:{CHANNELS};out:{OUT}"
    )
    y = mtf.conv2d_with_blocks(
        x, kernel, [call.stride] * 2, call.padding, "row_blocks:1", "column_blocks:1"
    )
    assert_close(mtf.to_numpy(y), _whole(call)[0])


@pytest.mark.parametrize("blocking", BLOCKINGS)
def test_blocks_that_cannot_share_the_results_are_an_error(blocking: tuple[int, int]) -> None:
    impossible = [call for call in CALLS if not _can_share(call, blocking)]
    assert bool(impossible) == (blocking != (1, 1))
    for call in impossible:
        x = _named(mtf.Mesh(), _in_blocks(_image(call), blocking), "channels")
        kernel = mtf.import_tf_tensor(
            x.mesh, _filter(call), mtf.Shape(zip("abco", _filter(call).shape, strict=True))
        )
        kernel = mtf.rename_dimension(kernel, "c", "channels")
        with pytest.raises(mtf.ShapeError, match="cannot share equally"):
            mtf.conv2d_with_blocks(
                x, kernel, [call.stride] * 2, call.padding, x.shape[1], x.shape[2]
            )
