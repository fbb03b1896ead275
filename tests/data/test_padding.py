"""Tests of mtfrun.data.padding."""

from __future__ import annotations

import numpy as np

from mtfrun.data import padding_of


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
