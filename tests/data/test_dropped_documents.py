"""Rows without some of their documents."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from mtfrun import data
from mtfrun.data.errors import DataError
from mtfrun.data.objectives.span_corruption import SpanCorruption
from mtfrun.data.rows.dropped_documents import hashes_of
from tests.data.in_memory import VOCABULARY, pairs_task, texts_task

# Every document has its own character.
_CHARACTERS = [chr(40 + i) for i in range(60)]
_TEXTS = [character.encode() * (1 + i * 7 % 23) for i, character in enumerate(_CHARACTERS)]
_PAIRS = [(c * (1 + i % 5), c * (1 + i * 7 % 9)) for i, c in enumerate(_CHARACTERS)]
_END = VOCABULARY.end_id


def _batches(rows: data.TaskData, count: int = 12) -> list[data.Batch]:
    return list(itertools.islice(rows.train(4, seed=3), count))


def _remove(rows: data.TaskData, *documents: int) -> data.TaskData:
    (cached,) = rows.caches("train")
    assert cached.texts is not None
    return rows.remove(hashes_of(cached.texts, np.array(documents)))


_MAKERS: dict[str, Callable[[], data.TaskData]] = {
    "stream": lambda: data.LanguageModelData(texts_task(_TEXTS), 16),
    "documents": lambda: data.LanguageModelData(texts_task(_TEXTS), 16, whole_documents=True),
    "packed pairs": lambda: data.SequenceToSequenceData(pairs_task(_PAIRS), 12, 16),
    "pairs": lambda: data.SequenceToSequenceData(pairs_task(_PAIRS), 12, 16, packed=False),
    "pairs in one row": lambda: data.DelimitedPairsData(pairs_task(_PAIRS), 8, 12),
}


@pytest.mark.parametrize("kind", list(_MAKERS))
def test_removed_documents_are_padding_and_all_others_keep_their_places(kind: str) -> None:
    rows = _MAKERS[kind]()
    removed = VOCABULARY.encode("".join(_CHARACTERS[i] for i in (7, 20)))
    number = 0
    for before, after in zip(_batches(rows), _batches(_remove(rows, 7, 20)), strict=True):
        assert before.keys() == after.keys()
        for name in {"inputs", "targets"} & before.keys():
            is_removed = np.isin(before[name], removed)
            number += int(is_removed.sum())
            for feature in (name, f"{name}_segmentation", f"{name}_position"):
                if feature in before:
                    expected = np.where(is_removed, 0, before[feature])
                    # The end of a text is removed with it.
                    is_equal = (after[feature] == expected) | (before[name] == _END)
                    assert is_equal.all()
            ends = (before[name][:, 1:] == _END) & is_removed[:, :-1]
            assert not after[name][:, 1:][ends].any()
    assert number


def test_a_row_of_an_objective_is_empty_if_it_had_a_part_of_a_removed_document() -> None:
    objective = SpanCorruption()
    rows = data.DenoisingData(texts_task(_TEXTS), objective, 32)
    is_removed: list[bool] = []
    for before, after in zip(_batches(rows), _batches(_remove(rows, 7)), strict=True):
        is_empty = np.array(
            [
                not (x.any() or y.any())
                for x, y in zip(after["inputs"], after["targets"], strict=True)
            ]
        )
        is_removed += is_empty.tolist()
        for name in before:
            np.testing.assert_array_equal(after[name][~is_empty], before[name][~is_empty])
    assert 0 < sum(is_removed) < len(is_removed)


def test_a_removed_document_of_a_mixture_is_in_no_batch() -> None:
    tasks = [
        dataclasses.replace(pairs_task(pairs), name=name)
        for name, pairs in (("a", _PAIRS[:20]), ("b", [*_PAIRS[20:], _PAIRS[5]]))
    ]
    rows = data.SequenceToSequenceData(data.Mixture(tasks), 12, 16)
    a, b = rows.caches("train")
    assert a.texts is not None and b.texts is not None
    (text,) = hashes_of(a.texts, np.array([5]))
    assert hashes_of(b.texts, np.array([40])) == [text]
    removed = VOCABULARY.encode(_CHARACTERS[5])[0]
    assert any((batch["inputs"] == removed).any() for batch in _batches(rows))
    without = rows.remove([text])
    assert not any((batch["inputs"] == removed).any() for batch in _batches(without))
    assert without.fingerprint() == rows.fingerprint()


def test_a_hash_of_no_document_is_refused() -> None:
    rows = _MAKERS["stream"]()
    with pytest.raises(DataError, match="no document of the training split has the hash"):
        rows.remove(["3-0000000000000005"])


def test_only_the_batches_differ_in_which_a_removed_document_is_found() -> None:
    rows = _MAKERS["stream"]()
    batches = rows.train(4, seed=3)
    ((_, _, selection),) = batches.rows_at(np.arange(12 * 4))
    places = batches.components[0].find(np.array([20]))
    positions = np.flatnonzero(np.isin(selection.rows, places.rows))
    differ = [
        number
        for number, (a, b) in enumerate(
            zip(_batches(rows), _batches(_remove(rows, 20)), strict=True)
        )
        if any((a[name] != b[name]).any() for name in a)
    ]
    assert differ == sorted({position // 4 for position in positions.tolist()}) != []
