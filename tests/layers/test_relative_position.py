"""Buckets of relative positions against the definition, for many numbers and distances."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtfrun import layers, mtf
from tests.layouts import ONE_DEVICE, assert_close

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
        relative,
        bidirectional=bidirectional,
        num_buckets=num_buckets,
        max_distance=max_distance,
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
        relative,
        bidirectional=bidirectional,
        num_buckets=num_buckets,
        max_distance=max_distance,
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
