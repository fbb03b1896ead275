"""Products of rows with the matrices of their groups equal a loop over rows, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import ONE_DEVICE, assert_close

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
