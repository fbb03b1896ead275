"""Pooling of images and of blocks of them equals TensorFlow's, with gradients, under layouts."""

from __future__ import annotations

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
