"""The optimization barrier changes no value, wherever it stands."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import ONE_DEVICE


@pytest.mark.parametrize(
    ("mesh_shape", "jit"), [(ONE_DEVICE, False), (ONE_DEVICE, True), ("data:2,model:2", False)]
)
def test_a_barrier_changes_nothing(mesh_shape: str, jit: bool) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;d_model:model")
    values = np.arange(8.0, dtype=np.float32).reshape(2, 4)
    x = mtf.import_tf_tensor(mesh, values, "batch:2;d_model:4")

    def turned(x: mtf.Tensor) -> mtf.Tensor:
        return mtf.transpose(mtf.optimization_barrier(x + x), "d_model:4;batch:2")

    found = mtf.function(turned, jit_compile=jit)(x)
    np.testing.assert_array_equal(mtf.to_numpy(found), 2.0 * values.T)


def test_outside_of_functions_it_is_the_tensor_itself() -> None:
    x = mtf.zeros(mtf.Mesh(ONE_DEVICE), "batch:2")
    assert mtf.optimization_barrier(x) is x
