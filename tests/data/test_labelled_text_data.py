"""Texts with a class each: the only target is at the end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mtfrun import data
from tests.data.in_memory import VOCABULARY, pairs_task

LABELS = ("no", "yes", "perhaps")
PAIRS = [("ab", "yes"), ("", "perhaps"), ("a long text", "no")]


def _rows(labels: tuple[str, ...] = LABELS, length: int = 6) -> data.LabelledTextData:
    return data.LabelledTextData(dataclasses.replace(pairs_task(PAIRS), labels=labels), length)


def test_the_target_is_the_label_at_the_end_of_the_text() -> None:
    (batch,) = _rows().evaluation(4)
    texts = [VOCABULARY.decode(row) for row in batch["inputs"]]
    assert texts == ["ab", "", "a lon", ""]
    expected = np.zeros([4, 6], np.int32)
    expected[0, 2], expected[1, 0], expected[2, 5] = 2, 3, 1
    np.testing.assert_array_equal(batch["targets"], expected)
    ends = batch["inputs"][expected > 0]
    assert (ends == VOCABULARY.end_id).all()


def test_training_draws_the_same_rows() -> None:
    batch = next(_rows().train(3, seed=0))
    assert sorted(batch["targets"].max(axis=1).tolist()) == [1, 2, 3]


def test_targets_that_are_no_labels_and_tasks_without_any_are_refused() -> None:
    with pytest.raises(data.DataError, match=r"is none of Task\.labels"):
        list(_rows(("no", "yes")).evaluation(2))
    with pytest.raises(data.DataError, match="has 0 labels"):
        _rows(())
