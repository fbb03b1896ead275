"""`mtf.cond`, and the count of the products of a traced function."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import ONE_DEVICE, assert_close, meshes

LAYOUT = "batch:data;d_ff:model"
BATCH, D_MODEL, D_FF = (
    mtf.Dimension(name, size) for name, size in (("batch", 8), ("d_model", 6), ("d_ff", 16))
)


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, *meshes()])
def test_cond_computes_one_branch_under_every_layout(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    values = np.random.default_rng(0).normal(size=[8, 16]).astype(np.float32)
    x = mtf.import_tf_tensor(mesh, values, [BATCH, D_FF])

    @mtf.function
    def chosen(x: mtf.Tensor, i: mtf.Tensor) -> dict[str, mtf.Tensor]:
        def first() -> dict[str, mtf.Tensor]:
            return {"sum": mtf.reduce_sum(x), "x": x * 2.0}

        def second() -> dict[str, mtf.Tensor]:
            return {"sum": mtf.zeros(mesh, []), "x": mtf.zeros_like(x)}

        result: dict[str, mtf.Tensor] = mtf.cond(mtf.equal(i, 0), first, second)
        return result

    for i, factor in ((0, 1.0), (1, 0.0)):
        result = mtf.to_numpy(chosen(x, mtf.constant(mesh, i, dtype=tf.int32)))
        assert_close(result["sum"], np.float32(factor * values.sum()))
        assert_close(result["x"], 2.0 * factor * values)


def test_branches_of_other_shapes_are_an_error() -> None:
    mesh = mtf.Mesh()
    x = mtf.ones(mesh, [BATCH])

    @mtf.function
    def chosen(x: mtf.Tensor) -> mtf.Tensor:
        result: mtf.Tensor = mtf.cond(
            mtf.equal(mtf.reduce_sum(x), 0.0), lambda: x, lambda: mtf.ones(mesh, [D_FF])
        )
        return result

    with pytest.raises(mtf.ShapeError, match="branches of cond"):
        chosen(x)


def _count(mesh_shape: str) -> dict[str, mtf.FlopCount]:
    """Returns the counts of several functions by name."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    x, kernel = mtf.ones(mesh, [BATCH, D_MODEL]), mtf.ones(mesh, [D_MODEL, D_FF])
    rows, cols, channels = (mtf.Dimension(name, 4) for name in ("rows", "cols", "channels"))
    image = mtf.ones(mesh, [BATCH, rows, cols, channels])
    window = [mtf.Dimension("height", 3), mtf.Dimension("width", 3)]
    out = mtf.Dimension("out", 5)

    def product() -> mtf.Tensor:
        return mtf.einsum([x, kernel], [BATCH, D_FF])

    def loop() -> mtf.Tensor:
        first = mtf.constant(mesh, 0, dtype=tf.int32)
        zero = mtf.zeros(mesh, [BATCH, D_FF])
        body = lambda i, y: [i + 1, y + product()]  # noqa: E731
        _, y = mtf.while_loop(lambda i, _: mtf.less(i, 3), body, [first, zero], rounds=3)
        return y

    functions = {
        "product": product,
        "by element": lambda: mtf.einsum([x, x], [BATCH, D_MODEL]),
        "bfloat16": lambda: mtf.einsum([mtf.cast(y, tf.bfloat16) for y in (x, kernel)], [D_FF]),
        "loop": loop,
        "convolution": lambda: mtf.conv2d(image, mtf.ones(mesh, [*window, channels, out])),
        "transposed": lambda: mtf.conv2d_transpose(
            image, mtf.ones(mesh, [*window, out, channels]), (2, 2)
        ),
        "groups": lambda: mtf.grouped_matmul(
            mtf.ones(mesh, [BATCH, D_MODEL]),
            mtf.ones(mesh, [mtf.Dimension("experts", 2), D_MODEL, out]),
            mtf.constant(mesh, [3, 5], [mtf.Dimension("experts", 2)], tf.int32),
        ),
    }
    counts = {name: mtf.FlopCount() for name in functions}
    for name, function in functions.items():

        def counted(name: str = name, function=function) -> mtf.Tensor:  # type: ignore[no-untyped-def]
            with mtf.count_flops(counts[name]):
                return function()

        mtf.function(counted)()
    return counts


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_products_are_counted_once_whatever_the_layout(mesh_shape: str) -> None:
    counts = _count(mesh_shape)
    assert {name: count.total for name, count in counts.items()} == {
        "product": 2 * 8 * 6 * 16,
        "by element": 0,
        "bfloat16": 2 * 6 * 16,  # after the sum over the batch
        "loop": 3 * 2 * 8 * 6 * 16,
        "convolution": 2 * (8 * 4 * 4 * 5) * (3 * 3 * 4),
        "transposed": 2 * (8 * 4 * 4 * 4) * (3 * 3 * 5),
        "groups": 2 * 8 * 6 * 5,
    }
    assert list(counts["bfloat16"].by_dtype) == ["bfloat16"]
