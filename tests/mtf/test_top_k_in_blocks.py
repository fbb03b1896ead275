"""Operations: top_k in blocks, barriers, gathered rows, grouped products."""

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


@pytest.mark.parametrize(
    ("mesh_shape", "jit"), [(ONE_DEVICE, False), (ONE_DEVICE, True), ("data:2,model:2", False)]
)
def test_a_barrier_changes_nothing(mesh_shape: str, jit: bool) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;d_model:model")
    values = np.arange(8.0, dtype=np.float32).reshape(2, 4)
    x = mtf.import_tf_tensor(mesh, values, "batch:2;d_model:4")

    def doubled_and_transposed(x: mtf.Tensor) -> mtf.Tensor:
        return mtf.transpose(mtf.optimization_barrier(x + x), "d_model:4;batch:2")

    y = mtf.function(doubled_and_transposed, jit_compile=jit)(x)
    np.testing.assert_array_equal(mtf.to_numpy(y), 2.0 * values.T)


@pytest.mark.parametrize("rank", [5, 6, 8])
def test_softmax_works_for_any_number_of_dimensions(rank: int, mesh_shape: str) -> None:
    shape = mtf.Shape((f"d{i}", 8 if i == 0 else 2) for i in range(rank))
    array = np.random.default_rng(rank).standard_normal(shape.to_integer_list, np.float32)
    x = mtf.import_tf_tensor(mtf.Mesh(mesh_shape, "d0:data"), array, shape)
    y = mtf.function(lambda x: mtf.softmax(x, shape[-1]))(x)
    exponentials = np.exp(array)
    assert_close(mtf.to_numpy(y), exponentials / exponentials.sum(-1, keepdims=True))


B, G, S, E, C, M = (
    mtf.Dimension(name, size)
    for name, size in {"b": 2, "g": 4, "s": 5, "e": 3, "c": 6, "m": 4}.items()
)
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=[3, 2, 4, 6, 4]).astype(np.float32)
EXPERT = RNG.integers(0, 3, [2, 4, 5]).astype(np.int32)
SLOT = RNG.integers(-1, 6, [2, 4, 5]).astype(np.int32)


@pytest.mark.parametrize(
    "mesh_shape, layout",
    [
        (ONE_DEVICE, ""),
        ("data:2,model:2", "b:data;g:model"),
        ("data:4,model:2", "g:data;m:model"),
        ("data:2,model:1", "b:data"),
    ],
)
@pytest.mark.parametrize("order", [[B, G, S], [S, G, B]])
def test_rows_are_those_of_numpy_in_any_order(
    mesh_shape: str, layout: str, order: list[mtf.Dimension]
) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    table = mtf.import_tf_tensor(mesh, TABLE, [E, B, G, C, M])
    expert = mtf.import_tf_tensor(mesh, EXPERT, [B, G, S])
    slot = mtf.import_tf_tensor(mesh, SLOT, [B, G, S])

    def select(table: mtf.Tensor, expert: mtf.Tensor, slot: mtf.Tensor) -> mtf.Tensor:
        return mtf.gather_rows(table, [(E, expert), (C, slot)], [*order, M])

    rows = mtf.function(select)(table, expert, slot)
    b, g, _ = np.indices(EXPERT.shape)
    expected = TABLE[EXPERT, b, g, np.maximum(SLOT, 0)]
    axes = [[B, G, S].index(dim) for dim in order]
    np.testing.assert_array_equal(mtf.to_numpy(rows), expected.transpose([*axes, 3]))
    assert rows.mesh.partition(rows.shape) == mesh.partition([*order, M])


def test_the_row_comes_last() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    table = mtf.import_tf_tensor(mesh, TABLE[:, 0, 0], [E, C, M])
    index = mtf.import_tf_tensor(mesh, SLOT[0, 0], [S])
    with pytest.raises(mtf.ShapeError, match="the row's last: not"):
        mtf.gather_rows(table, [(C, index)], [E, M, S])


INNER, COLUMNS = 6, 5
# By rows: rows of every group; in XLA's loop 40 rows have tiles of 16, 600 rows tiles of 128.
SIZES = [
    (40, [10, 10, 10, 10]),
    (40, [40, 0, 0, 0]),
    (40, [0, 0, 0, 40]),
    (40, [3, 17, 0, 11]),
    (40, [0, 0, 0, 0]),
    (3, [1, 0, 1, 0, 1]),
    (600, [200, 129, 271]),
    (600, [1, 597, 1]),
]


@pytest.mark.parametrize(
    "jit_compile, rows, sizes",
    [
        pytest.param(jit, rows, sizes, marks=[] if i in (3, 6) else [pytest.mark.slow])
        for jit in (False, True)
        for i, (rows, sizes) in enumerate(SIZES)
    ],
)
def test_products_and_gradients_equal_a_loop_over_rows(
    jit_compile: bool, rows: int, sizes: list[int]
) -> None:
    rng = np.random.default_rng(0)
    shapes = [[rows, INNER], [len(sizes), INNER, COLUMNS], [rows, COLUMNS]]
    x, kernels, of_y = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    y, of_x, of_kernels = map(np.zeros_like, (of_y, x, kernels))
    # numpy's matrix products may report values that are not numbers although there is none.
    with np.errstate(invalid="ignore"):
        for row, group in enumerate(np.repeat(np.arange(len(sizes)), sizes)):
            y[row] = x[row] @ kernels[group]
            of_x[row] = kernels[group] @ of_y[row]
            of_kernels[group] += np.outer(x[row], of_y[row])

    mesh = mtf.Mesh(ONE_DEVICE)
    kernels_shape = f"e:{len(sizes)};i:{INNER};c:{COLUMNS}"
    arguments = [
        mtf.import_tf_tensor(mesh, x, f"r:{rows};i:{INNER}"),
        mtf.import_tf_tensor(mesh, kernels, kernels_shape),
        mtf.import_tf_tensor(mesh, np.array(sizes, np.int32), f"e:{len(sizes)}"),
        mtf.import_tf_tensor(mesh, of_y, f"r:{rows};c:{COLUMNS}"),
    ]

    def run(
        x: mtf.Tensor, kernels: mtf.Tensor, sizes: mtf.Tensor, of_y: mtf.Tensor
    ) -> list[mtf.Tensor | None]:
        product = mtf.grouped_matmul(x, kernels, sizes)
        return [product, *mtf.gradients([product], [x, kernels], [of_y])]

    results = mtf.to_numpy(mtf.function(run, jit_compile)(*arguments))
    for result, expected in zip(results, (y, of_x, of_kernels), strict=True):
        assert_close(result, expected)


@pytest.mark.parametrize("kernels", ["e:2;c:3", "i:4;c:3", "e:2;i:4;r:5;c:3"])
def test_other_dimensions_are_refused(kernels: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(mtf.ShapeError, match="grouped_matmul needs x"):
        mtf.grouped_matmul(
            mtf.ones(mesh, "r:5;i:4"),
            mtf.ones(mesh, kernels),
            mtf.ones(mesh, "e:2", dtype=np.int32),
        )
