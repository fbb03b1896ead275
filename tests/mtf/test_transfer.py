"""Transfer of values to a mesh and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf

ARRAY = np.arange(24, dtype=np.float32).reshape(4, 6)
SHAPE = "a:4;b:6"


@pytest.fixture(params=["data:1,model:1", "data:2,model:1", "data:4,model:2"])
def mesh(request: pytest.FixtureRequest) -> mtf.Mesh:
    return mtf.Mesh(request.param, "a:data;b:model")


@pytest.mark.parametrize("value", [ARRAY, ARRAY.tolist(), tf.constant(ARRAY)])
def test_a_value_is_the_same_after_a_round_trip(mesh: mtf.Mesh, value: Any) -> None:
    x = mtf.import_tf_tensor(mesh, value, SHAPE, dtype=tf.float32)
    assert x.shape == mtf.convert_to_shape(SHAPE) and x.dtype == tf.float32
    np.testing.assert_array_equal(mtf.to_numpy(x), ARRAY)


def test_a_host_value_becomes_a_constant_inside_a_function(mesh: mtf.Mesh) -> None:
    x = mtf.import_tf_tensor(mesh, ARRAY, SHAPE)
    y = mtf.function(lambda x: x + mtf.import_tf_tensor(mesh, ARRAY, SHAPE))(x)
    np.testing.assert_array_equal(mtf.to_numpy(y), 2 * ARRAY)


def test_the_type_is_converted(mesh: mtf.Mesh) -> None:
    x = mtf.import_tf_tensor(mesh, ARRAY, SHAPE, dtype=tf.bfloat16)
    assert x.dtype == tf.bfloat16
    np.testing.assert_array_equal(mtf.to_numpy(x).astype(np.float32), ARRAY)


def test_a_value_without_a_shape_has_anonymous_dimensions(mesh: mtf.Mesh) -> None:
    x = mtf.import_tf_tensor(mesh, ARRAY)
    assert x.shape.to_string == "_anonymous_0:4;_anonymous_1:6"


def test_a_fully_replicated_value_is_laid_out(mesh: mtf.Mesh) -> None:
    x = mtf.import_fully_replicated(mesh, ARRAY, SHAPE)
    np.testing.assert_array_equal(mtf.to_numpy(x), ARRAY)


def test_other_sizes_are_an_error(mesh: mtf.Mesh) -> None:
    with pytest.raises(
        mtf.ShapeError, match=r"sizes \[4, 6\] cannot have the shape Shape\(a:4;b:5\)"
    ):
        mtf.import_tf_tensor(mesh, ARRAY, "a:4;b:5")


def test_to_numpy_takes_structures_and_does_not_change_other_leaves(mesh: mtf.Mesh) -> None:
    x = mtf.import_tf_tensor(mesh, ARRAY, SHAPE)
    structure = mtf.to_numpy({"x": [x, x + 1.0], "step": 3})
    np.testing.assert_array_equal(structure["x"][1], ARRAY + 1.0)
    assert structure["step"] == 3


@pytest.mark.parametrize("value", [2.5, [[1.0, 2.0], [3.0, 4.0]]])
def test_constants_fill_or_have_their_shape(mesh: mtf.Mesh, value: Any) -> None:
    mesh = mtf.Mesh(mesh.shape)
    x = mtf.constant(mesh, value, "a:2;b:2")
    np.testing.assert_array_equal(mtf.to_numpy(x), np.broadcast_to(np.float32(value), [2, 2]))
