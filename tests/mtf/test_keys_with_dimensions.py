"""Draws with the key of a tensor depend on its entries, not on their positions."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import ONE_DEVICE

SHAPE = "batch:8;vocab:16"


def _draw(rows: list[int], mesh_shape: str = ONE_DEVICE) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, "batch:data;vocab:model")
    shape = mtf.convert_to_shape(SHAPE).resize_dimension("batch", len(rows))

    def run(rows: mtf.Tensor) -> mtf.Tensor:
        return mtf.random_uniform(mesh, shape, key=mtf.random_key(5).fold_in(rows))

    rows_tensor = mtf.import_tf_tensor(mesh, np.asarray(rows, np.int32), [shape[0]])
    return mtf.to_numpy(mtf.function(run)(rows_tensor))


def test_a_rows_draws_move_with_its_number() -> None:
    forward = _draw(list(range(8)))
    np.testing.assert_array_equal(_draw(list(range(8))[::-1]), forward[::-1])
    assert len(np.unique(forward)) == forward.size


def test_an_entrys_draws_are_those_of_the_scalar_key() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    key = mtf.random_key(5).fold_in(3)
    scalar = mtf.to_numpy(mtf.random_uniform(mesh, "vocab:16", key=key))
    np.testing.assert_array_equal(_draw([3])[0], scalar)


def test_draws_are_the_same_under_every_layout(mesh_shape: str) -> None:
    np.testing.assert_array_equal(_draw(list(range(8)), mesh_shape), _draw(list(range(8))))


def test_a_draw_without_a_dimension_of_its_key_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    key = mtf.random_key(0, mtf.range(mesh, "batch:4"))
    with pytest.raises(mtf.ShapeError, match=r"dimension batch:4 .* is not in the output"):
        mtf.random_uniform(mesh, "vocab:16", key=key)
