"""The meshes on which everything must give the same numbers, and how numbers are compared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

NUM_DEVICES = 8

# Mesh shapes for `mtf.Mesh(mesh_shape, layout)`. Every one names both axes, so that one layout
# string, such as "batch:data;d_ff:model", serves them all. The first has one device and therefore
# no DTensor underneath: it is what the others are compared with.
ONE_DEVICE = "data:1,model:1"
LAYOUTS = [
    ONE_DEVICE,
    "data:2,model:1",
    "data:1,model:2",
    "data:2,model:2",
    "data:4,model:1",
    "data:1,model:4",
    "data:4,model:2",
    "data:8,model:1",
]

# Those of each run: each axis, both, and more devices than two along one. The others split the
# same dimensions over other numbers of devices, in slow tests.
QUICK_LAYOUTS = [ONE_DEVICE, "data:2,model:1", "data:1,model:2", "data:2,model:2", "data:4,model:2"]

# Relative to the largest entry of what is expected; see assert_close.
FLOAT32_OP_TOLERANCE = 1e-5
FLOAT32_MODEL_TOLERANCE = 1e-4


def meshes() -> list:
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

    Floats may differ by `tolerance` times the largest absolute entry of `expected`; where that is
    zero, not at all. NaNs and infinities must stand at the same places. Integers and booleans
    must be equal.
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
    # float64 has room for the difference of any two float32; bfloat16 has no arithmetic of its own.
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    scale = np.abs(expected[finite]).max(initial=0.0)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    both_finite = finite & np.isfinite(actual)
    difference = np.abs(np.subtract(actual, expected, where=both_finite, out=np.zeros_like(actual)))
    error = np.where(same, 0.0, np.where(both_finite, difference, np.inf))
    allowed = tolerance * scale
    _raise_at_largest(
        np.where(error > allowed, error, 0.0),
        actual,
        expected,
        f"differs by more than {allowed:.3g} ({tolerance:g} of the largest entry, {scale:.6g})",
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
