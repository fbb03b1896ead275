"""Shapes, tensors, and their way between the host and the devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def test_the_truth_of_a_tensor_is_not_defined() -> None:
    with pytest.raises(TypeError, match=r"use mtf\.where"):
        bool(tensor(X, "a:3;b:2") > 0)


def test_raw_values_are_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"got ndarray: convert it by mtf\.import_tf_tensor"):
        mtf.relu(X)


BATCH, LENGTH, HEADS = (mtf.Dimension(n, s) for n, s in [("batch", 8), ("length", 3), ("heads", 2)])
SHAPE = mtf.Shape([BATCH, LENGTH, HEADS])


@pytest.mark.parametrize(
    "dimension", ["heads:4", " heads : 4 ", ("heads", 4), ["heads", 4], mtf.Dimension("heads", 4)]
)
def test_a_dimension_is_read_from_a_text_a_pair_or_itself(dimension: Any) -> None:
    assert mtf.convert_to_dimension(dimension) == mtf.Dimension("heads", 4)


ANY: Any = (7, ("a", 2.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mtf.convert_to_dimension("heads"),
            "'heads' is not a dimension: write 'name:size'",
        ),
        (lambda: mtf.convert_to_dimension("heads:four"), "'heads:four' is not a dimension: write"),
        (
            lambda: mtf.convert_to_dimension(ANY[0]),
            "7 is not a dimension: give a Dimension, .name, size",
        ),
        (lambda: mtf.convert_to_dimension(("a", 0)), "dimension 'a' .* of at least 1, got 0"),
        (lambda: mtf.convert_to_dimension(ANY[1]), "dimension 'a' .* of at least 1, got 2.5"),
        (
            lambda: mtf.convert_to_dimension(("", 2)),
            "a dimension's name must be a non-empty string",
        ),
        (lambda: mtf.convert_to_shape(ANY[0]), "7 is not a shape"),
        (lambda: mtf.Shape(["a:8", "a:4"]), "dimension 'a' occurs twice in .*: rename one of them"),
        (lambda: tensor(X, "a:3;b:2") + tensor(X, "c:3;a:2"), "dimension 'a' occurs twice in"),
        (
            lambda: SHAPE.get_dim_by_name("lenght"),
            "no dimension 'lenght' .*, did you mean 'length'",
        ),
        (lambda: SHAPE.index(mtf.Dimension("heads", 4)), "no dimension heads:4 in .* has size 2$"),
        (lambda: mtf.Tensor(MESH, tf.constant(X), "a:2;b:2"), r"a value of sizes \(3, 2\) cannot"),
        (lambda: tensor(X, "a:4;b:5"), r"a value of sizes \[3, 2\] cannot have the shape"),
        (
            lambda: mtf.add(tensor(X, "a:3;b:2"), tensor(X[:, 0], "a:3"), output_shape="a:3"),
            "dimension b:2 of .* is not in the output .*: reduce it first or add it",
        ),
        (
            lambda: tensor(X, "a:3;b:2") + tensor(X, "a:3;b:2", mtf.Mesh()),
            "operands are on two meshes, .*: use one mesh",
        ),
    ],
)
def test_a_wrong_shape_is_an_error_in_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(mtf.ShapeError, match=f"^{message}") as error:
        call()
    assert "\n" not in str(error.value)


def test_combined_dimension_has_all_the_entries_and_the_first_name() -> None:
    rows, columns = mtf.Dimension("rows", 3), mtf.Dimension("columns", 4)
    assert mtf.combined_dimension([rows, columns]) == mtf.Dimension("rows", 12)
    assert mtf.combined_dimension([rows, columns], "pixels") == mtf.Dimension("pixels", 12)
    with pytest.raises(mtf.ShapeError, match="needs at least one dimension"):
        mtf.combined_dimension([])


@pytest.mark.parametrize(
    "text_or_list",
    [
        "batch:8;length:3;heads:2",
        "batch:8,length:3,heads:2",
        "batch:8.length:3.heads:2",
        " batch:8 length:3  heads:2 ",
        ["batch:8", ("length", 3), HEADS],
        SHAPE,
    ],
)
def test_a_shape_is_read_from_mesh_tensorflow_texts_and_lists(text_or_list: Any) -> None:
    assert mtf.convert_to_shape(text_or_list) == SHAPE


def test_a_shape_describes_itself() -> None:
    assert SHAPE.size == 48
    assert SHAPE.ndims == len(SHAPE) == 3
    assert SHAPE.to_integer_list == [8, 3, 2]
    assert SHAPE.dimension_names == ["batch", "length", "heads"]
    assert mtf.convert_to_shape(SHAPE.to_string) == SHAPE
    assert list(SHAPE) == SHAPE.dims == [BATCH, LENGTH, HEADS]
    assert SHAPE[1] == LENGTH


def test_the_empty_shape_is_that_of_a_scalar() -> None:
    assert mtf.convert_to_shape("") == mtf.Shape() == mtf.convert_to_shape(())
    assert mtf.Shape().size == 1


def test_addition_appends_and_subtraction_removes() -> None:
    assert mtf.Shape([BATCH]) + LENGTH + HEADS == SHAPE
    assert [BATCH] + mtf.Shape([LENGTH, HEADS]) == SHAPE  # noqa: RUF005 (the operator is tested)
    assert (SHAPE - LENGTH).dims == [BATCH, HEADS]
    assert (SHAPE - [HEADS, BATCH]).dims == [LENGTH]
    assert SHAPE - mtf.Dimension("length", 4) == SHAPE
    assert SHAPE - None == SHAPE


def test_dimensions_are_renamed_and_resized_in_place() -> None:
    assert SHAPE.rename_dimension("length", "memory_length") == mtf.convert_to_shape(
        "batch:8;memory_length:3;heads:2"
    )
    assert SHAPE.resize_dimension("length", 5).to_integer_list == [8, 5, 2]


def test_verify_no_new_dims_names_the_new_dimension() -> None:
    mtf.verify_no_new_dims([SHAPE, "d_ff:4"], "d_ff:4;batch:8")
    with pytest.raises(mtf.ShapeError, match=r"no dimension d_ff:5 in .*its 'd_ff' has size 4"):
        mtf.verify_no_new_dims([SHAPE, "d_ff:4"], "d_ff:5;batch:8")


def test_is_subsequence_keeps_the_order() -> None:
    assert mtf.is_subsequence([BATCH, HEADS], SHAPE.dims)
    assert not mtf.is_subsequence([HEADS, BATCH], SHAPE.dims)


ARRAY = np.arange(24, dtype=np.float32).reshape(4, 6)
TRANSFER_SHAPE = "a:4;b:6"


@pytest.fixture(params=["data:1,model:1", "data:2,model:1", "data:4,model:2"])
def mesh(request: pytest.FixtureRequest) -> mtf.Mesh:
    return mtf.Mesh(request.param, "a:data;b:model")


@pytest.mark.parametrize("value", [ARRAY, ARRAY.tolist(), tf.constant(ARRAY)])
def test_a_value_is_the_same_after_a_round_trip(mesh: mtf.Mesh, value: Any) -> None:
    x = mtf.import_tf_tensor(mesh, value, TRANSFER_SHAPE, dtype=tf.float32)
    assert x.shape == mtf.convert_to_shape(TRANSFER_SHAPE) and x.dtype == tf.float32
    np.testing.assert_array_equal(mtf.to_numpy(x), ARRAY)


def test_a_host_value_becomes_a_constant_inside_a_function(mesh: mtf.Mesh) -> None:
    x = mtf.import_tf_tensor(mesh, ARRAY, TRANSFER_SHAPE)
    y = mtf.function(lambda x: x + mtf.import_tf_tensor(mesh, ARRAY, TRANSFER_SHAPE))(x)
    np.testing.assert_array_equal(mtf.to_numpy(y), 2 * ARRAY)


def test_the_type_is_converted(mesh: mtf.Mesh) -> None:
    x = mtf.import_tf_tensor(mesh, ARRAY, TRANSFER_SHAPE, dtype=tf.bfloat16)
    assert x.dtype == tf.bfloat16
    np.testing.assert_array_equal(mtf.to_numpy(x).astype(np.float32), ARRAY)


def test_a_value_without_a_shape_has_anonymous_dimensions(mesh: mtf.Mesh) -> None:
    x = mtf.import_tf_tensor(mesh, ARRAY)
    assert x.shape.to_string == "_anonymous_0:4;_anonymous_1:6"


def test_to_numpy_takes_structures_and_does_not_change_other_leaves(mesh: mtf.Mesh) -> None:
    x = mtf.import_tf_tensor(mesh, ARRAY, TRANSFER_SHAPE)
    structure = mtf.to_numpy({"x": [x, x + 1.0], "step": 3})
    np.testing.assert_array_equal(structure["x"][1], ARRAY + 1.0)
    assert structure["step"] == 3


@pytest.mark.parametrize("value", [2.5, [[1.0, 2.0], [3.0, 4.0]]])
def test_constants_fill_or_have_their_shape(mesh: mtf.Mesh, value: Any) -> None:
    mesh = mtf.Mesh(mesh.shape)
    x = mtf.constant(mesh, value, "a:2;b:2")
    np.testing.assert_array_equal(mtf.to_numpy(x), np.broadcast_to(np.float32(value), [2, 2]))
