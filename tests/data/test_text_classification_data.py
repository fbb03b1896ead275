"""Labels as ids."""

from __future__ import annotations

import pytest

from mtfrun.data import DataError, LabelVocabulary

LABELS = ["noun.animal", "noun.plant", "verb.motion"]


def test_a_label_is_one_id_and_comes_back() -> None:
    vocabulary = LabelVocabulary(LABELS)
    for number, label in enumerate(LABELS):
        ids = vocabulary.encode(label.encode())
        assert ids.tolist() == [3 + number] and vocabulary.decode([*ids, 1]) == label
    assert vocabulary.size == 6 and len(vocabulary.bytes_per_id) == 6


def test_ids_of_no_label_are_empty() -> None:
    vocabulary = LabelVocabulary(LABELS)
    assert [vocabulary.decode(ids) for ids in ([], [0], [1], [2], [6], [300])] == [""] * 6


def test_an_unknown_label_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"none of .*, did you mean 'noun\.plant'"):
        LabelVocabulary(LABELS).encode("noun.plan")


@pytest.mark.parametrize("labels", [[], ["a", "a"]])
def test_labels_are_some_and_different(labels: list[str]) -> None:
    with pytest.raises(DataError, match="there must be one, and none twice"):
        LabelVocabulary(labels)


def test_the_fingerprint_changes_with_the_order() -> None:
    first, second = (LabelVocabulary(labels) for labels in (LABELS, LABELS[::-1]))
    assert first.fingerprint != second.fingerprint and repr(first) != repr(second)
    assert first.fingerprint == LabelVocabulary(tuple(LABELS)).fingerprint
