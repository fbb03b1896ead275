"""The comparison that all other tests rely on accepts rounding and rejects differences."""

from __future__ import annotations

import numpy as np
import pytest

from tests.layouts import assert_close


def test_assert_close_accepts_rounding_relative_to_the_largest_entry() -> None:
    assert_close([1e3, 1e-3], [1e3, 1.5e-3], tolerance=1e-5)
    assert_close(np.array([np.nan, np.inf, 1.0], np.float32), [np.nan, np.inf, 1.0])
    assert_close(np.zeros([0, 3]), np.zeros([0, 3]))
    assert_close([-1.000005e9, -1.000005e7, 2.00001], [-1e9, -1e7, 2.0], tolerance=1e-5)


@pytest.mark.parametrize(
    "actual, expected, message",
    [
        ([1.0, 2.1], [1.0, 2.0], r"1 of 2 entries.*at \(1,\)"),
        ([1.0], [1.0, 1.0], r"shape is \(1,\)"),
        ([np.nan], [1.0], "1 of 1 entries"),
        ([1.0], [np.nan], "1 of 1 entries"),
        ([np.inf], [-np.inf], "1 of 1 entries"),
        ([1e-9], [0.0], "1 of 1 entries"),
        ([1, 2, 4], [1, 2, 3], r"is not equal; at \(2,\)"),
        ([1.0], [1], "dtype is float64"),
        ([-1e7, -90.0], [-1e7, -2.0], r"1 of 2 entries.*at \(1,\)"),
        ([-1e9, -1.0005e7], [-1e9, -1e7], r"1 of 2 entries.*at \(1,\)"),
        ([-1e9, -500.0], [-1e9, -1e9], r"1 of 2 entries.*at \(1,\)"),
        ([-1e9, -1e9], [-1e9, -2.0], r"1 of 2 entries.*at \(1,\)"),
        ([-1e7, 1e-9], [-1e7, 0.0], r"1 of 2 entries.*at \(1,\)"),
    ],
)
def test_assert_close_rejects_a_difference(
    actual: list[float], expected: list[float], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_close(actual, expected)
