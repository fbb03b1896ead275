"""Softmax of tensors with many dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import assert_close


@pytest.mark.parametrize("rank", [5, 6, 8])
def test_softmax_works_for_any_number_of_dimensions(rank: int, mesh_shape: str) -> None:
    shape = mtf.Shape((f"d{i}", 8 if i == 0 else 2) for i in range(rank))
    array = np.random.default_rng(rank).standard_normal(shape.to_integer_list, np.float32)
    x = mtf.import_tf_tensor(mtf.Mesh(mesh_shape, "d0:data"), array, shape)
    y = mtf.function(lambda x: mtf.softmax(x, shape[-1]))(x)
    exponentials = np.exp(array)
    assert_close(mtf.to_numpy(y), exponentials / exponentials.sum(-1, keepdims=True))
