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
# The numbers below have six digits, relative to each frequency.
SIX_DIGITS = 1e-5

# (positions, frequencies, magnitude): those of transformers 5.24 for heads of 16.
SCALED = {
    "linear": (
        layers.RotaryPositions(10000.0, layers.LinearScaling(3.0)),
        [0.333333, 0.105409, 0.0333333, 0.0105409, 0.00333333, 0.00105409, 3.33333e-4, 1.05409e-4],
        1.0,
    ),
    "llama 3": (
        layers.RotaryPositions(500.0, layers.Llama3Scaling(8.0, 1.0, 4.0, 16)),
        [0.576056, 0.0804229, 0.0264343, 0.0121562, 0.00559017, 0.00257071, 0.00118218, 5.4364e-4],
        1.0,
    ),
    "yarn": (
        layers.RotaryPositions(1000.0, layers.YarnScaling(4.0, 64, 1.0, 4.0)),
        [1.0, 0.421697, 0.111142, 0.0187474, 0.00790569, 0.0033338, 0.00140585, 5.92843e-4],
        1.138629436111989,
    ),
    "yarn with a ramp between pairs and a magnitude": (
        layers.RotaryPositions(
            1000.0,
            layers.YarnScaling(
                4.0, 64, 1.0, 4.0, whole_pairs=False, attention_factor=0.9634746568860826
            ),
        ),
        [1.0, 0.421697, 0.10161, 0.0187474, 0.00790569, 0.0033338, 0.00140585, 5.92843e-4],
        0.9634746568860826,
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_frequencies_are_those_of_transformers(name: str) -> None:
    positions, frequencies, magnitude = SCALED[name]
    np.testing.assert_allclose(positions.frequencies(16), frequencies, rtol=SIX_DIGITS)
    assert positions.magnitude == pytest.approx(magnitude)


LONG_ROPE = layers.LongRopeScaling(
    [1.0, 1.1, 1.3, 1.6], [1.2, 2.0, 3.5, 5.0], original_length=12, factor=64 / 12
)
# (scaling, length, frequencies): those of transformers 5.24 for heads of 8 and a base of 1,000.
OF_LENGTH = {
    "dynamic, short": (layers.DynamicScaling(3.0, 20), 20, [1.0, 0.177828, 0.0316228, 0.00562341]),
    "dynamic": (layers.DynamicScaling(3.0, 20), 40, [1.0, 0.112025, 0.0125495, 0.00140585]),
    "longrope, short": (LONG_ROPE, 12, [1.0, 0.161662, 0.0243252, 0.00351463]),
    "longrope": (LONG_ROPE, 13, [0.833333, 0.088914, 0.00903508, 0.00112468]),
}


@pytest.mark.parametrize("name", OF_LENGTH)
def test_frequencies_by_length_are_those_of_transformers(name: str) -> None:
    scaling, length, frequencies = OF_LENGTH[name]
    mesh, pairs = mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_kv", 4)
    positions = layers.RotaryPositions(1000.0, scaling)
    assert positions.magnitude == pytest.approx(1.2937 if scaling is LONG_ROPE else 1.0, rel=1e-5)
    for position in (mtf.range(mesh, ("length", length)), mtf.constant(mesh, length - 1, [])):
        actual = mtf.to_numpy(positions.at(position, pairs))
        np.testing.assert_allclose(actual, frequencies, rtol=SIX_DIGITS)


@pytest.mark.parametrize("name", SCALED)
def test_vectors_are_rotated_by_position_times_frequency(name: str) -> None:
    positions, _, magnitude = SCALED[name]
    mesh = mtf.Mesh(ONE_DEVICE)
    x = np.random.default_rng(0).normal(size=[5, 16]).astype(np.float32)
    rotated = layers.rotate(
        mtf.import_tf_tensor(mesh, x, [ROTARY_LENGTH, D_KV]),
        mtf.range(mesh, ROTARY_LENGTH),
        D_KV,
        positions,
    )
    angle = np.arange(5)[:, np.newaxis] * positions.frequencies(16)
    turned = (x[:, :8] + 1j * x[:, 8:]) * np.exp(1j * angle) * magnitude
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


def test_sizes_and_factors_without_a_meaning_are_refused() -> None:
    with pytest.raises(mtf.ShapeError, match="need an even d_kv, not 3"):
        layers.RotaryPositions().frequencies(3)
    with pytest.raises(InputError, match=r"LinearScaling.factor is 0: it must be"):
        layers.LinearScaling(0)
    with pytest.raises(InputError, match=r"low_frequency_factor=4\.0 must be positive and below"):
        layers.Llama3Scaling(low_frequency_factor=4.0)
    with pytest.raises(InputError, match=r"slow_turns=64\.0 must be positive and at most"):
        layers.YarnScaling(slow_turns=64.0)
