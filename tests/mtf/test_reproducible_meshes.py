"""Meshes that cannot be reproducible are refused in a line."""

from __future__ import annotations

import pytest

from mtfrun import mtf
from mtfrun.errors import LayoutError

BATCH = "batch:data"


@pytest.mark.parametrize(
    ("reproducible", "shape", "layout", "message"),
    [
        ("dat:8", "data:2", BATCH, "no axis 'dat', did you mean 'data'"),
        ("data:8", "data:2", "heads:data", "add the rule batch:data"),
        ("model:1", "data:2;model:1", BATCH, "into how many parts .* add data:8"),
        ("data:6", "data:2", BATCH, r"2 device\(s\) along 'data' cannot compute 6 parts"),
        ("data:2", "data:4", BATCH, r"4 device\(s\) along 'data' cannot compute 2 parts"),
        ("data:8", "data:2;model:2", BATCH, "2 .* along 'model', not 1; .* data:8,model:2"),
        ("data:8,model:4", "data:2;model:2", BATCH, "2 .* along 'model', not 4"),
        ("data:8", "data:2", "batch:data;weights:data", "the rule weights:data"),
        ("data:8", "data:2", "batch:data;experts:data", "the rule experts:data"),
    ],
)
def test_what_would_change_bits_is_refused(
    reproducible: str, shape: str, layout: str, message: str
) -> None:
    with pytest.raises(LayoutError, match=message):
        mtf.Mesh(shape, layout, reproducible=reproducible)


def test_a_batch_without_equal_parts_is_refused() -> None:
    mesh = mtf.Mesh("data:2", BATCH, reproducible="data:8")
    batch = {"x": mtf.zeros(mesh, "batch:12")}
    with pytest.raises(LayoutError, match="batch:12 cannot be split into the 8 parts"):
        mtf.sum_over_parts(lambda part, _: part, batch)
