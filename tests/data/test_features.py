"""Names, shapes and validation of the features of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.data import DataError, packed_features, validate_batch

SHAPES = {name: mtf.convert_to_shape("batch:2;length:4") for name in packed_features(4)}


def valid_batch() -> dict[str, np.ndarray]:
    """Returns a batch that satisfies SHAPES."""
    return {name: np.zeros([2, 4], np.int32) for name in SHAPES}


def test_every_feature_is_batch_by_length() -> None:
    assert list(SHAPES) == ["targets", "targets_segmentation", "targets_position"]
    assert set(SHAPES.values()) == {mtf.convert_to_shape("batch:2;length:4")}
    validate_batch(valid_batch(), SHAPES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("targets", None, "the wrong features; missing: targets; surplus: none"),
        (
            "inputs",
            np.zeros([2, 4], np.int32),
            "the wrong features; missing: none; surplus: inputs",
        ),
        (
            "targets",
            np.zeros([2, 5], np.int32),
            'feature "targets" has sizes [2, 5], not batch:2;len',
        ),
        (
            "targets",
            np.zeros([2, 4]),
            'feature "targets" is float64 where int32 or uint8 is expected',
        ),
    ],
)
def test_a_malformed_batch_is_an_error(name: str, value: np.ndarray | None, message: str) -> None:
    batch = {
        key: array for key, array in {**valid_batch(), name: value}.items() if array is not None
    }
    with pytest.raises(DataError) as error:
        validate_batch(batch, SHAPES)
    assert message in str(error.value)
