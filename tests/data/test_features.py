"""Names, shapes, validation and padding of the features of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.data import DataError, packed_features, padding_of, validate_batch

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


def test_padding_of_inputs_and_targets_is_counted() -> None:
    batch = {"inputs": np.array([[5, 1, 0], [5, 5, 1]]), "targets": np.array([[5, 1], [1, 0]])}
    assert padding_of(batch) == (2, 10)


def test_segments_decide_where_there_are_any() -> None:
    """Targets of a masked language model are 0 where nothing is predicted."""
    batch = {"targets": np.array([[0, 7, 0, 0]]), "targets_segmentation": np.array([[1, 1, 2, 0]])}
    assert padding_of(batch) == (1, 4)


def test_targets_with_gaps_are_those_of_inputs() -> None:
    inputs = np.array([[5, 6, 7, 1, 0, 0]])
    assert padding_of({"inputs": inputs, "targets": np.array([[0, 8, 0, 9, 0, 0]])}) == (4, 12)
    # Targets of an encoder-decoder have none.
    assert padding_of({"inputs": inputs, "targets": np.array([[8, 9, 1, 0, 0, 0]])}) == (5, 12)


def test_what_is_no_text_has_no_padding() -> None:
    batch: dict[str, np.ndarray] = {
        "images": np.zeros([2, 4, 4, 1], np.uint8),
        "labels": np.zeros([2], np.int32),
    }
    assert padding_of(batch) == (0, 0)
    assert padding_of({"targets": np.zeros([2], np.int32)}) == (0, 0)
