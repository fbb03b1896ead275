"""The largest entries along a long dimension, found by blocks under XLA, equal a sort."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.mtf.ops.top_k import BLOCK, BLOCKS_FOR_EACH, fits_blocks
from tests.layouts import ONE_DEVICE, assert_close

ROWS, SIZE = 6, 4 * BLOCK * BLOCKS_FOR_EACH


def _values(kind: str) -> np.ndarray:
    """Returns float32 [6, size]."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal([ROWS, SIZE])
    if kind == "with ties":
        values = np.round(2 * values)
    elif kind == "masked":
        values[:, 100:] = -np.inf
        values[0] = -np.inf
    elif kind == "in one block":
        values[:, 3 * BLOCK : 4 * BLOCK] += 10.0
    return values.astype(np.float32)


@pytest.mark.parametrize(
    "kind, order",
    [
        pytest.param(kind, order, marks=[] if i == j else [pytest.mark.slow])
        for i, kind in enumerate(["all different", "with ties", "masked", "in one block"])
        for j, order in enumerate(["a:2;b:3;vocab", "a:2;vocab;b:3", "vocab;a:2;b:3"])
    ],
)
def test_the_largest_entries_come_in_the_order_of_a_stable_sort(kind: str, order: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    vocab, rank = mtf.Dimension("vocab", SIZE), mtf.Dimension("rank", 4)
    assert fits_blocks(vocab.size, rank.size)
    values = _values(kind)
    x = mtf.import_tf_tensor(mesh, values.reshape([2, 3, SIZE]), f"a:2;b:3;vocab:{SIZE}")
    x = mtf.transpose(x, order.replace("vocab", f"vocab:{SIZE}"))

    def run(x: mtf.Tensor) -> list[mtf.Tensor]:
        best, indices = mtf.top_k(x, vocab, rank)
        return [best, indices, mtf.argmax(x, vocab)]

    best, indices, first = mtf.to_numpy(mtf.function(run, jit_compile=True)(x))
    expected = np.argsort(-values, axis=-1, kind="stable")[:, :4].reshape([2, 3, 4])
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(best.reshape([ROWS, 4]), -np.sort(-values, axis=-1)[:, :4])
    np.testing.assert_array_equal(first, expected[..., 0])


@pytest.mark.parametrize(("size", "k"), [(SIZE, 5), (SIZE + 1, 1), (BLOCK, 1)])
def test_all_entries_are_sorted_where_blocks_do_not_help(size: int, k: int) -> None:
    assert not fits_blocks(size, k)
    values = np.random.default_rng(1).standard_normal([ROWS, size]).astype(np.float32)
    x = mtf.import_tf_tensor(mtf.Mesh(ONE_DEVICE), values, f"a:6;vocab:{size}")
    run = mtf.function(lambda x: mtf.top_k(x, f"vocab:{size}", f"rank:{k}"), jit_compile=True)
    np.testing.assert_array_equal(
        mtf.to_numpy(run(x)[1]), np.argsort(-values, axis=-1, kind="stable")[:, :k]
    )


def test_the_normaliser_along_a_first_dimension_is_that_along_the_last() -> None:
    values = _values("with ties")
    x = mtf.import_tf_tensor(
        mtf.Mesh(ONE_DEVICE), values.T.reshape([SIZE, 2, 3]), f"vocab:{SIZE};a:2;b:3"
    )
    run = mtf.function(lambda x: mtf.reduce_logsumexp(x, f"vocab:{SIZE}"), jit_compile=True)
    expected = np.log(np.exp(values.astype(np.float64)).sum(axis=-1)).reshape([2, 3])
    assert_close(mtf.to_numpy(run(x)), expected.astype(np.float32))


@pytest.mark.parametrize("order", [f"a:2;b:3;vocab:{SIZE}", f"vocab:{SIZE};a:2;b:3"])
def test_a_mesh_gives_the_same_entries_and_gradients(order: str) -> None:
    mesh = mtf.Mesh("data:2,model:2", "a:data;vocab:model")
    vocab, rank = mtf.Dimension("vocab", SIZE), mtf.Dimension("rank", 4)
    values = _values("all different").reshape([2, 3, SIZE])
    x = mtf.transpose(mtf.import_tf_tensor(mesh, values, f"a:2;b:3;vocab:{SIZE}"), order)

    def run(x: mtf.Tensor) -> list[mtf.Tensor | None]:
        best, indices = mtf.top_k(x, vocab, rank)
        (gradient,) = mtf.gradients([mtf.reduce_sum(best)], [x])
        return [indices, mtf.argmax(x, vocab), mtf.reduce_logsumexp(x, vocab), gradient]

    results = mtf.to_numpy(mtf.function(run, jit_compile=True)(x))
    indices, first, logsumexp, gradient = results
    expected = np.argsort(-values, axis=-1, kind="stable")[..., :4]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(first, expected[..., 0])
    assert_close(logsumexp, np.log(np.exp(values).sum(axis=-1)))
    expected_gradient = np.zeros_like(values)
    np.put_along_axis(expected_gradient, expected, 1.0, axis=-1)
    if order.startswith("vocab"):
        expected_gradient = np.moveaxis(expected_gradient, -1, 0)
    np.testing.assert_array_equal(gradient, expected_gradient)
