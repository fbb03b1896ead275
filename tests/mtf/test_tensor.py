"""Tensors: operators that broadcast by name, and errors."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import assert_close

MESH = mtf.Mesh()
RNG = np.random.default_rng(0)
X = RNG.standard_normal([3, 2]).astype(np.float32)
Y = RNG.standard_normal([2, 4]).astype(np.float32) + 3.0


def tensor(array: np.ndarray, shape: str, mesh: mtf.Mesh = MESH) -> mtf.Tensor:
    return mtf.import_tf_tensor(mesh, array, shape)


def test_operators_broadcast_by_name_in_order_of_appearance() -> None:
    x, y = tensor(X, "a:3;b:2"), tensor(Y, "b:2;c:4")
    wide_x, wide_y = X[:, :, None], Y[None]
    for result, expected in [
        (x + y, wide_x + wide_y),
        (x - y, wide_x - wide_y),
        (x * y, wide_x * wide_y),
        (x / y, wide_x / wide_y),
        (x // y, wide_x // wide_y),
        (x % y, wide_x % wide_y),
        (x < y, wide_x < wide_y),
        (x >= y, wide_x >= wide_y),
    ]:
        assert result.shape == mtf.convert_to_shape("a:3;b:2;c:4")
        assert_close(mtf.to_numpy(result), expected)
    assert (y + x).shape == mtf.convert_to_shape("b:2;c:4;a:3")


def test_the_shape_that_contains_the_other_is_the_results() -> None:
    x, y = tensor(X, "a:3;b:2"), tensor(X[:, 0], "a:3")
    assert (y + x).shape == (x + y).shape == x.shape


def test_python_numbers_take_the_type_of_the_tensor() -> None:
    x = mtf.cast(tensor(X, "a:3;b:2"), tf.bfloat16)
    assert (2 * x).dtype == (x - 1.5).dtype == (1 / x).dtype == tf.bfloat16
    ids = tensor(np.array([5, -7], np.int32), "b:2")
    assert_close(mtf.to_numpy(ids // 2), np.array([2, -4]))
    assert_close(mtf.to_numpy(10 - ids), np.array([5, 17]))
    assert_close(mtf.to_numpy(-ids), np.array([-5, 7]))
    assert_close(mtf.to_numpy(7 % mtf.abs(ids)), np.array([2, 0]))


def test_sizes_that_differ_from_the_shape_are_an_error() -> None:
    with pytest.raises(
        mtf.ShapeError, match=r"sizes \(3, 2\) cannot have the shape Shape\(a:2;b:2\)"
    ):
        mtf.Tensor(MESH, tf.constant(X), "a:2;b:2")


def test_one_name_with_two_sizes_is_an_error() -> None:
    with pytest.raises(mtf.ShapeError, match="dimension 'a' occurs twice"):
        tensor(X, "a:3;b:2") + tensor(X, "c:3;a:2")


def test_an_output_shape_without_a_dimension_is_an_error_with_the_remedy() -> None:
    with pytest.raises(
        mtf.ShapeError,
        match=r"^dimension b:2 of .* is not in the output .*: reduce it first or add it",
    ):
        mtf.add(tensor(X, "a:3;b:2"), tensor(X[:, 0], "a:3"), output_shape="a:3")


def test_operands_on_two_meshes_are_an_error() -> None:
    with pytest.raises(mtf.ShapeError, match=r"operands are on two meshes, .*: use one mesh"):
        tensor(X, "a:3;b:2") + tensor(X, "a:3;b:2", mtf.Mesh())


def test_the_truth_of_a_tensor_is_not_defined() -> None:
    with pytest.raises(TypeError, match=r"use mtf\.where"):
        bool(tensor(X, "a:3;b:2") > 0)


def test_raw_values_are_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"got ndarray: convert it by mtf\.import_tf_tensor"):
        mtf.relu(X)
