"""Layout rules."""

from __future__ import annotations

import pytest

from mtfrun import mtf


@pytest.mark.parametrize(
    "rules_like",
    ["batch:data;heads:model", "batch:data, heads:model", [("batch", "data"), ("heads", "model")]],
)
def test_rules_are_read_from_texts_and_pairs(rules_like: mtf.LayoutLike) -> None:
    rules = mtf.convert_to_layout_rules(rules_like)
    assert dict(rules) == {"batch": "data", "heads": "model"}
    assert mtf.convert_to_layout_rules(rules.to_string) == rules
    assert hash(mtf.convert_to_layout_rules(rules_like)) == hash(rules)


@pytest.mark.parametrize("text", ["batch", "batch:", ":data", "batch:data:model"])
def test_a_text_that_is_no_rule_is_an_error_in_one_line(text: str) -> None:
    with pytest.raises(
        mtf.LayoutError, match=rf"^'{text}' is not a layout rule: write 'dimension:axis'$"
    ):
        mtf.convert_to_layout_rules(text)


def test_one_dimension_cannot_be_on_two_axes() -> None:
    with pytest.raises(
        mtf.LayoutError, match=r"^layout maps dimension 'batch' to both 'data' and 'model'"
    ):
        mtf.convert_to_layout_rules("batch:data;batch:model")
    assert len(mtf.convert_to_layout_rules("batch:data;batch:data")) == 1


def test_the_size_on_one_device_is_known_without_a_mesh() -> None:
    layout, mesh = "batch:data;heads:model", "data:4;model:2"
    assert mtf.tensor_dim_to_mesh_dim_size(layout, mesh, mtf.Dimension("batch", 8)) == 4
    assert mtf.tensor_dim_to_mesh_dim_size(layout, mesh, mtf.Dimension("length", 8)) == 1
    assert mtf.tensor_dim_to_mesh_dim_size("batch:data", "", mtf.Dimension("batch", 8)) == 1
    assert mtf.tensor_dim_to_size_per_split(layout, mesh, mtf.Dimension("heads", 6)) == 3
    with pytest.raises(mtf.LayoutError, match=r"dimension batch:6 cannot be split into 4 parts"):
        mtf.tensor_dim_to_size_per_split(layout, mesh, mtf.Dimension("batch", 6))
