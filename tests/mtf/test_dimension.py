"""Dimensions, and what converts to one."""

from __future__ import annotations

from typing import Any

import pytest

from mtfrun import mtf


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
