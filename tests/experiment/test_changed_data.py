"""Data that have changed since a checkpoint."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mtfrun.data import ByteVocabulary, DataError
from mtfrun.experiment.saved_configuration import check_unchanged, check_vocabularies

VOCABULARY = ByteVocabulary()
SAVED: dict[str, Any] = {
    "texts": {
        "wmt": {
            "ids": "a" * 64,
            "source": {"files": [["a.tsv", 10, 1700], ["b.tsv", 20, 1700]]},
            "preprocessors": ["Translate()"],
        }
    },
    "vocabularies": {"targets": VOCABULARY.fingerprint},
    "settings": {"length": 8, "packed": True},
}


def _changed(**paths: object) -> dict[str, Any]:
    """Returns the fingerprint with other values at paths with "__" between their keys."""
    present = copy.deepcopy(SAVED)
    for path, value in paths.items():
        *keys, last = path.split("__")
        entry = present
        for key in keys:
            entry = entry[key]
        entry[last] = value
    return present


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (_changed(settings__length=16), "settings: length 8 -> 16"),
        (
            _changed(
                texts__wmt__ids="b" * 64,
                texts__wmt__source={"files": [["a.tsv", 10, 1700], ["b.tsv", 21, 1800]]},
            ),
            "texts: wmt: source: files 20 -> 21; texts: wmt: source: files 1700 -> 1800",
        ),
        (
            _changed(texts__wmt__ids="b" * 64, texts__wmt__preprocessors=["Summarize()"]),
            "texts: wmt: preprocessors Translate() -> Summarize()",
        ),
        (_changed(texts__wmt__ids="b" * 64), "texts: wmt aaaaaaaaaaaa -> bbbbbbbbbbbb"),
        (_changed(texts__glue={"ids": "c" * 64}), 'texts: glue (none) -> {"ids": "ccc'),
        ({**SAVED, "texts": {}}, "texts: wmt {"),
    ],
)
def test_a_change_is_refused_by_name(present: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_unchanged(SAVED, present, "ckpt-300")
    text = str(caught.value)
    assert text.startswith(f"the data have changed since ckpt-300: {message}")
    assert text.endswith("restore them, or resume with --accept_changes")
    assert "\n" not in text and len(text) < 400


def test_what_makes_no_difference_is_accepted() -> None:
    check_unchanged(SAVED, SAVED, "ckpt-300")
    # A file that was copied: its time is another, the ids are the same.
    copied = _changed(texts__wmt__source={"files": [["a.tsv", 10, 9999], ["b.tsv", 20, 9999]]})
    check_unchanged(SAVED, copied, "ckpt-300")
    # A checkpoint without a fingerprint: nothing is known.
    check_unchanged({}, SAVED, "ckpt-300")
    # Tuples become lists in JSON.
    check_unchanged({"settings": {"sizes": [1, 2]}}, {"settings": {"sizes": (1, 2)}}, "ckpt-300")


def test_many_changes_are_counted() -> None:
    saved, present = ({str(i): i + offset for i in range(9)} for offset in (0, 1))
    with pytest.raises(DataError, match=r"0 0 -> 1; 1 1 -> 2; 2 2 -> 3; 6 more: restore"):
        check_unchanged(saved, present, "ckpt-300")


def test_another_vocabulary_is_refused() -> None:
    check_vocabularies(SAVED, {"targets": VOCABULARY}, "ckpt-300")
    check_vocabularies({}, {"targets": VOCABULARY}, "ckpt-300")
    other = _changed(vocabularies__targets="0123456789abcdef" * 4)
    with pytest.raises(DataError) as caught:
        check_vocabularies(other, {"targets": VOCABULARY}, "ckpt-300")
    assert str(caught.value) == (
        "ckpt-300 was trained with another vocabulary than ByteVocabulary(): targets "
        f"0123456789ab -> {VOCABULARY.fingerprint[:12]}; name that one, or begin a new run"
    )
    # It is no change that may be accepted.
    check_unchanged(SAVED, other, "ckpt-300")
