"""Positions in attention: relative, by distance, rotary."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from tests.layouts import FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close

SIZES = [(32, 128), (8, 128), (6, 20), (7, 20), (10, 64), (16, 32), (24, 50), (33, 300), (64, 50)]
# So near to the next bucket rounding decides.
NEAR = 1e-5


def _buckets(
    relative: int, bidirectional: bool, num_buckets: int, max_distance: int
) -> tuple[int, int]:
    """Returns the bucket; two where it is a matter of rounding.

    Raffel et al. 2020, arXiv:1910.10683, section 2.1, as Mesh TensorFlow computes it.
    """
    first, distance = 0, max(-relative, 0)
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if relative > 0 else 0
        distance = abs(relative)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance, first + distance
    share = math.log(distance / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    low, high = (min(exact + math.floor(share + shift), num_buckets - 1) for shift in (-NEAR, NEAR))
    return first + low, first + high


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_buckets, max_distance", SIZES)
def test_a_bucket_is_the_definition(
    num_buckets: int, max_distance: int, bidirectional: bool
) -> None:
    relative = np.arange(-400, 401)
    bucket_of = layers.relative_position_bucket(
        relative, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance
    )
    for position, bucket in zip(relative, bucket_of, strict=True):
        expected = _buckets(int(position), bidirectional, num_buckets, max_distance)
        assert bucket in expected, f"{position}: {bucket}, not {expected}"


def test_rounding_is_that_of_products_with_reciprocals() -> None:
    # 32 + log(40 / 32) / log(50 / 32) * 32 is 48; in float32, with reciprocals, a little less.
    bucket = layers.relative_position_bucket(
        np.asarray([-40]), bidirectional=False, num_buckets=64, max_distance=50
    )
    assert bucket == [47]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_buckets, max_distance", SIZES)
def test_a_bias_is_the_tables_entry_of_the_bucket(
    num_buckets: int, max_distance: int, bidirectional: bool
) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    bias = layers.RelativePositionBias(
        mesh, num_heads=2, num_buckets=num_buckets, max_distance=max_distance
    )
    mtf.initialize(bias)
    length, memory_length = mtf.Dimension("length", 400), mtf.Dimension("memory_length", 400)
    logits = bias(
        mtf.range(mesh, length),
        mtf.range(mesh, memory_length),
        layers.Call(),
        bidirectional=bidirectional,
    )
    relative = np.arange(400) - np.arange(400)[:, np.newaxis]
    buckets = layers.relative_position_bucket(
        relative, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance
    )
    assert_close(mtf.to_numpy(logits), mtf.to_numpy(bias.table)[:, buckets])


@pytest.mark.parametrize(
    "num_buckets, max_distance, bidirectional", [(32, 16, False), (32, 8, True), (1, 8, False)]
)
def test_a_max_distance_within_the_single_distances_is_an_error(
    num_buckets: int, max_distance: int, bidirectional: bool
) -> None:
    with pytest.raises(ValueError, match=f"max_distance={max_distance}: half of the buckets"):
        layers.relative_position_bucket(
            np.arange(3),
            bidirectional=bidirectional,
            num_buckets=num_buckets,
            max_distance=max_distance,
        )


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


D_KV, ROTARY_LENGTH = mtf.Dimension("d_kv", 16), mtf.Dimension("length", 5)


class Slower(layers.RotaryScaling):
    """Half of the frequencies, and twice the vectors."""

    magnitude = 2.0

    def __call__(self, frequencies: np.ndarray, base: float) -> np.ndarray:
        return frequencies / 2.0


@pytest.mark.parametrize("scaling", [None, Slower()])
def test_vectors_are_rotated_by_position_times_frequency(
    scaling: layers.RotaryScaling | None,
) -> None:
    positions, factor = layers.RotaryPositions(1000.0, scaling), 1.0 if scaling is None else 2.0
    mesh = mtf.Mesh(ONE_DEVICE)
    x = np.random.default_rng(0).normal(size=[5, 16]).astype(np.float32)
    rotated = layers.rotate(
        mtf.import_tf_tensor(mesh, x, [ROTARY_LENGTH, D_KV]),
        mtf.range(mesh, ROTARY_LENGTH),
        D_KV,
        positions,
    )
    frequencies = 1000.0 ** (-np.arange(8) / 8) / factor
    angle = np.arange(5)[:, np.newaxis] * frequencies
    turned = (x[:, :8] + 1j * x[:, 8:]) * np.exp(1j * angle) * factor
    expected = np.concatenate([turned.real, turned.imag], axis=1)
    assert_close(mtf.to_numpy(rotated), expected, FLOAT32_OP_TOLERANCE)


def test_the_first_entries_rotate_as_a_smaller_vector() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x = np.random.default_rng(0).normal(size=[5, 16]).astype(np.float32)
    part = layers.RotaryPositions(rotated=6)
    smaller = mtf.Dimension("d_kv", 6)

    def rotated(x: np.ndarray, dim: mtf.Dimension, positions: layers.RotaryPositions) -> np.ndarray:
        tensor = mtf.import_tf_tensor(mesh, x, [ROTARY_LENGTH, dim])
        y = layers.rotate(tensor, mtf.range(mesh, ROTARY_LENGTH), dim, positions)
        return mtf.to_numpy(y)

    actual = rotated(x, D_KV, part)
    np.testing.assert_array_equal(actual[:, 6:], x[:, 6:])
    np.testing.assert_array_equal(
        actual[:, :6], rotated(x[:, :6], smaller, layers.RotaryPositions())
    )
    with pytest.raises(mtf.ShapeError, match="rotated=32 is more than d_kv=16"):
        rotated(x, D_KV, layers.RotaryPositions(rotated=32))


def test_an_odd_size_is_refused() -> None:
    with pytest.raises(mtf.ShapeError, match="need an even d_kv, not 3"):
        layers.RotaryPositions().frequencies(3)
