"""Rows that are selected along several dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import ONE_DEVICE

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
