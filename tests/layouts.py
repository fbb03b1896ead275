"""The meshes on which all numbers must be the same, and their comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

NUM_DEVICES = 8

# Mesh shapes for `mtf.Mesh(mesh_shape, layout)`. Every one names both axes, so that one layout
# string, such as "batch:data;d_ff:model", is valid for all. The first has one device and therefore
# no DTensor underneath: the others are compared with it.
ONE_DEVICE = "data:1,model:1"
#
# Two meshes tell: one splits over both axes, one has more than two devices along an axis. What
# meshes with an axis of one device add are causes of operations: tests/mtf runs these on them too.
LAYOUTS = [ONE_DEVICE, "data:2,model:2", "data:4,model:2"]

# Those of the default suite.
QUICK_LAYOUTS = [ONE_DEVICE, "data:2,model:2"]

# Relative to the largest entry of what is expected; see assert_close.
FLOAT32_OP_TOLERANCE = 1e-5
FLOAT32_MODEL_TOLERANCE = 1e-4

# Entries of this size represent infinity: masks are -1e9, scores of impossible hypotheses -1e7.
# They are not used as a scale for the other entries.
LIKE_INFINITY = 1e6


def meshes() -> list[Any]:
    """Returns the meshes of several devices as parameters of a test; slow ones are marked."""
    return [
        pytest.param(shape, marks=[] if shape in QUICK_LAYOUTS else [pytest.mark.slow])
        for shape in LAYOUTS
        if shape != ONE_DEVICE
    ]


def assert_close(
    actual: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float = FLOAT32_OP_TOLERANCE
) -> None:
    """Raises unless the arrays agree: shape, and every entry.

    Floats may differ by `tolerance` times the largest absolute entry of `expected` below 1e6; where
    that is zero, not at all. Larger entries, which represent infinity, may differ by `tolerance`
    times themselves. NaNs and infinities must be in the same places. Integers and booleans must be
    equal.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        raise AssertionError(f"shape is {actual.shape}, expected {expected.shape}")
    if actual.size == 0:
        return
    if expected.dtype.kind in "iub":
        if actual.dtype.kind not in "iub":
            raise AssertionError(f"dtype is {actual.dtype}, expected {expected.dtype}")
        _raise_at_largest(actual != expected, actual, expected, "is not equal")
        return
    # float64 represents the difference of any two float32; bfloat16 has no arithmetic of its own.
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    size = np.where(finite, np.abs(expected), 0.0)
    like_infinity = size >= LIKE_INFINITY
    largest = size[~like_infinity].max(initial=0.0)
    allowed = tolerance * np.where(like_infinity, size, largest)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    both_finite = finite & np.isfinite(actual)
    difference = np.abs(np.subtract(actual, expected, where=both_finite, out=np.zeros_like(actual)))
    error = np.where(same, 0.0, np.where(both_finite, difference, np.inf))
    _raise_at_largest(
        np.where(error > allowed, error, 0.0),
        actual,
        expected,
        f"differs by more than {tolerance:g} of the largest entry below 1e6, {largest:.6g}, or of"
        " itself where it is larger",
    )


def _raise_at_largest(
    error: np.ndarray, actual: np.ndarray, expected: np.ndarray, complaint: str
) -> None:
    """Raises, showing the entry with the largest error, if any error is not zero."""
    if not np.any(error):
        return
    worst = np.unravel_index(np.argmax(error), error.shape)
    raise AssertionError(
        f"{np.count_nonzero(error)} of {error.size} entries: {complaint}; at "
        f"{tuple(int(i) for i in worst)}: {actual[worst]!r}, expected {expected[worst]!r}"
    )
