"""Texts that are ids in decimals."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.data import DataError, IdVocabulary


def test_ids_survive_as_text() -> None:
    vocabulary = IdVocabulary(160)
    ids = np.array([2, 24, 159])
    np.testing.assert_array_equal(vocabulary.encode(vocabulary.decode(ids)), ids)
    assert vocabulary.decode([24, 145, 1, 30]) == "24 145"


@pytest.mark.parametrize("text", ["160", "-1", "1.5", "five", "²", b"\xff"])
def test_what_is_no_id_is_refused_by_name(text: str | bytes) -> None:
    with pytest.raises(DataError, match="is not an id below 160"):
        IdVocabulary(160).encode(text)


def test_vocabularies_of_other_settings_have_other_fingerprints() -> None:
    prints = {IdVocabulary(160).fingerprint, IdVocabulary(161).fingerprint}
    assert len({*prints, IdVocabulary(160, end_id=2).fingerprint}) == 3
