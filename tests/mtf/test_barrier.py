"""The optimization barrier does not change values."""

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

    def doubled_and_transposed(x: mtf.Tensor) -> mtf.Tensor:
        return mtf.transpose(mtf.optimization_barrier(x + x), "d_model:4;batch:2")

    y = mtf.function(doubled_and_transposed, jit_compile=jit)(x)
    np.testing.assert_array_equal(mtf.to_numpy(y), 2.0 * values.T)


def test_a_barrier_outside_of_functions_returns_the_tensor_itself() -> None:
    x = mtf.zeros(mtf.Mesh(ONE_DEVICE), "batch:2")
    assert mtf.optimization_barrier(x) is x
