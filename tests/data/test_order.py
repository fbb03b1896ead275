"""Mixing: proportions, limits, and access at any position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtfrun.data.rows.batches import Batch, Batches, Places, Rows
from mtfrun.data.rows.order import Mixing, Selection

# Of a share that is rounded to 2^-20, over the positions of these tests.
ROUNDING = 0.01


class Numbers(Rows):
    """Rows that are examples of the same numbers."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def take(self, selection: Selection) -> Batch:
        return {"number": selection.rows}

    def find(self, examples: np.ndarray) -> Places:
        return Places(np.arange(len(examples)), examples, np.zeros_like(examples))


def batches(sizes: Sequence[int], **options: Any) -> Batches:
    return Batches(list(map(Numbers, sizes)), 8, **options)


RATES = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=6)


@given(RATES, st.integers(1, 2000))
def test_every_stretch_has_the_shares_of_the_rates(rates: list[float], length: int) -> None:
    components, _ = Mixing(rates, [None] * len(rates)).at(np.arange(length))
    counts = np.bincount(components, minlength=len(rates))
    expected = length * np.array(rates) / sum(rates)
    assert np.abs(counts - expected).max() < len(rates) + ROUNDING


@given(RATES, st.lists(st.integers(0, 30), min_size=5, max_size=5))
def test_each_component_is_drawn_in_order_up_to_its_limit(
    rates: list[float], limits: list[int]
) -> None:
    bounds: list[int | None] = [None, *limits][: len(rates)]
    mixing = Mixing(rates, bounds)
    components, own = mixing.at(np.arange(400))
    for component, limit in enumerate(bounds):
        drawn = own[components == component]
        np.testing.assert_array_equal(drawn, np.arange(len(drawn)))
        assert limit is None or len(drawn) <= limit
    for position in (0, 1, 37, 399):
        before = np.bincount(components[:position], minlength=len(rates))
        assert mixing.count_before(position) == before.tolist()


def test_a_component_at_its_limit_leaves_the_others_their_rates() -> None:
    components, _ = Mixing([1.0, 3.0, 4.0], [None, None, 40]).at(np.arange(480))
    # The limit of 40 is reached after 80 positions.
    np.testing.assert_array_equal(np.bincount(components[:80]), [10, 30, 40])
    np.testing.assert_array_equal(np.bincount(components[80:], minlength=3), [100, 300, 0])


def test_two_limits_that_are_reached_together_end_together() -> None:
    components, own = Mixing([2.0, 1.0, 1.0], [None, 3, 3]).at(np.arange(24))
    np.testing.assert_array_equal(np.bincount(components), [18, 3, 3])
    # Both reach it within two rounds of four positions.
    assert (components[16:] == 0).all()
    np.testing.assert_array_equal(own[16:], np.arange(10, 18))


@pytest.mark.parametrize("limits", [[None, None], [None, 10**9]])
def test_a_far_position_equals_one_that_was_reached_by_counting(limits: list[int | None]) -> None:
    far = 5_000_000 * 64
    mixing = Mixing([1.0, 2.0], limits)
    components, own = mixing.at(far + np.arange(64))
    first, second = mixing.count_before(far)
    assert first + second == far
    for component, drawn in enumerate((first, second)):
        here = own[components == component]
        np.testing.assert_array_equal(here, drawn + np.arange(len(here)))


@pytest.mark.parametrize("size", [1, 2, 300, 2**16 + 1])
def test_an_epoch_has_every_row_once(size: int) -> None:
    ((_, _, selection),) = batches([size], seed=3).rows_at(np.arange(size, 2 * size))
    np.testing.assert_array_equal(np.sort(selection.rows), np.arange(size))
