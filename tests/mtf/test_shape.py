"""Dimensions, what converts to one, and shapes: ordered sets of them."""

from __future__ import annotations

from typing import Any

import pytest

from mtfrun import mtf

BATCH, LENGTH, HEADS = (mtf.Dimension(n, s) for n, s in [("batch", 8), ("length", 3), ("heads", 2)])
SHAPE = mtf.Shape([BATCH, LENGTH, HEADS])


@pytest.mark.parametrize(
    "dimension", ["heads:4", " heads : 4 ", ("heads", 4), ["heads", 4], mtf.Dimension("heads", 4)]
)
def test_a_dimension_is_read_from_a_text_a_pair_or_itself(dimension: Any) -> None:
    assert mtf.convert_to_dimension(dimension) == mtf.Dimension("heads", 4)


def test_dimensions_are_equal_when_name_and_size_agree() -> None:
    assert mtf.Dimension("heads", 4) == mtf.Dimension("heads", 4)
    assert mtf.Dimension("heads", 4) != mtf.Dimension("heads", 8)
    assert len({mtf.Dimension("a", 2), mtf.Dimension("a", 2), mtf.Dimension("b", 2)}) == 2


@pytest.mark.parametrize(
    "value, message",
    [
        ("heads", "'heads' is not a dimension: write 'name:size'"),
        ("heads:four", "'heads:four' is not a dimension: write 'name:size'"),
        (7, "7 is not a dimension: give a Dimension, .name, size. or 'name:size'"),
        (("heads", 0), "dimension 'heads' must have a size of at least 1, got 0"),
        (("heads", 2.5), "dimension 'heads' must have a size of at least 1, got 2.5"),
        (("", 2), "a dimension's name must be a non-empty string, got ''"),
    ],
)
def test_a_value_that_is_no_dimension_is_an_error_in_one_line(value: Any, message: str) -> None:
    with pytest.raises(mtf.ShapeError, match=f"^{message}$"):
        mtf.convert_to_dimension(value)


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


def test_membership_is_of_dimensions_and_order_matters_for_equality() -> None:
    assert LENGTH in SHAPE
    assert mtf.Dimension("length", 4) not in SHAPE
    assert "length" not in SHAPE
    assert mtf.Shape([LENGTH, BATCH]) != mtf.Shape([BATCH, LENGTH])
    assert len({mtf.Shape([BATCH]), mtf.Shape([BATCH]), mtf.Shape([LENGTH])}) == 2


def test_dimensions_are_renamed_and_resized_in_place() -> None:
    assert SHAPE.rename_dimension("length", "memory_length") == mtf.convert_to_shape(
        "batch:8;memory_length:3;heads:2"
    )
    assert SHAPE.resize_dimension("length", 5).to_integer_list == [8, 5, 2]


def test_a_repeated_name_is_an_error() -> None:
    with pytest.raises(
        mtf.ShapeError,
        match=r"^dimension 'batch' occurs twice in Shape\(batch:8;batch:4\): rename one of them",
    ):
        mtf.Shape(["batch:8", "batch:4"])


def test_an_unknown_dimension_is_named_with_the_nearest_one() -> None:
    with pytest.raises(
        mtf.ShapeError, match=r"^no dimension 'lenght' in Shape\(.*\), did you mean 'length'\?$"
    ):
        SHAPE.get_dim_by_name("lenght")
    with pytest.raises(
        mtf.ShapeError, match=r"^no dimension length:4 in Shape\(.*\): its 'length' has size 3$"
    ):
        SHAPE.index(mtf.Dimension("length", 4))


def test_a_number_is_not_a_shape() -> None:
    with pytest.raises(mtf.ShapeError, match=r"^7 is not a shape"):
        mtf.convert_to_shape(7)  # type: ignore[call-overload]


def test_anonymous_shape_keeps_sizes_only() -> None:
    assert mtf.anonymous_shape(SHAPE).to_string == "_anonymous_0:8;_anonymous_1:3;_anonymous_2:2"


def test_verify_no_new_dims_names_the_new_dimension() -> None:
    mtf.verify_no_new_dims([SHAPE, "d_ff:4"], "d_ff:4;batch:8")
    with pytest.raises(mtf.ShapeError, match=r"no dimension d_ff:5 in .*its 'd_ff' has size 4"):
        mtf.verify_no_new_dims([SHAPE, "d_ff:4"], "d_ff:5;batch:8")


def test_is_subsequence_keeps_the_order() -> None:
    assert mtf.is_subsequence([BATCH, HEADS], SHAPE.dims)
    assert not mtf.is_subsequence([HEADS, BATCH], SHAPE.dims)
