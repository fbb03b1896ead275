"""Logits by distance: their formula, and Falcon's form of it, which is rounded."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from tests.layouts import ONE_DEVICE, assert_close

HEADS, LENGTH = 6, 300
POSITIONS = np.arange(LENGTH)


def _bias(bias: layers.LinearDistanceBias, mesh: mtf.Mesh, position: int | None) -> np.ndarray:
    dims = [mtf.Dimension(name, LENGTH) for name in ("length", "memory_length")]
    query, memory = (mtf.range(mesh, dim) for dim in dims)
    if position is not None:
        query = mtf.constant(mesh, position, dtype="int32")
    value = bias.term(query, memory, bidirectional=False).value(np.float32)
    names = ["heads", *["length"] * (position is None), "memory_length"]
    assert value.shape.dimension_names == names
    return np.asarray(mtf.to_numpy(value))


@pytest.mark.parametrize("position", [None, 7])
def test_logits_fall_with_the_distance(position: int | None) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    bias = layers.LinearDistanceBias(mesh, num_heads=HEADS, scale=0.5)
    query = POSITIONS[:, None] if position is None else position
    distances = np.abs(POSITIONS - query)
    slopes = layers.alibi_slopes(HEADS).reshape([-1] + [1] * distances.ndim)
    assert_close(_bias(bias, mesh, position), -0.5 * slopes * distances)


@pytest.mark.parametrize("position", [None, 7])
@pytest.mark.parametrize(
    ("mesh_shape", "layout"), [(ONE_DEVICE, ""), ("data:1,model:2", "heads:model")]
)
def test_logits_by_rounded_positions(position: int | None, mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    bias = layers.LinearDistanceBias(mesh, num_heads=HEADS, scale=0.5, in_bfloat16=True)
    slopes, positions = (
        x.astype(ml_dtypes.bfloat16) for x in (layers.alibi_slopes(HEADS), POSITIONS)
    )
    expected = 0.5 * (slopes[:, None] * positions).astype(np.float32)
    if position is None:
        expected = np.broadcast_to(expected[:, None], [HEADS, LENGTH, LENGTH])
    assert np.array_equal(_bias(bias, mesh, position), expected)


def test_rounded_positions_are_for_one_direction() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    bias = layers.LinearDistanceBias(mesh, num_heads=HEADS, in_bfloat16=True)
    position = mtf.range(mesh, mtf.Dimension("length", 4))
    with pytest.raises(InputError, match="for causal attention"):
        bias.term(position, position, bidirectional=True)
