"""Vocabularies of bytes and of ids."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtfrun.data import IdVocabulary
from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.byte_vocabulary import ByteVocabulary

VOCABULARY = ByteVocabulary()


def test_ids_are_those_of_byt5() -> None:
    assert (VOCABULARY.pad_id, VOCABULARY.end_id, VOCABULARY.unknown_id) == (0, 1, 2)
    assert VOCABULARY.size == 384
    assert VOCABULARY.encode(bytes(range(256))).tolist() == list(range(3, 259))
    assert VOCABULARY.encode("a").dtype == np.int32


@pytest.mark.parametrize("text", ["", "plain", "CR\r\nNUL\0tab\t", "é漢🙂", "\u2028\ufeff"])
def test_decode_inverts_encode(text: str) -> None:
    assert VOCABULARY.decode(VOCABULARY.encode(text)) == text


def test_decode_stops_at_the_first_end_and_skips_padding() -> None:
    ids = [*VOCABULARY.encode("ab"), 0, *VOCABULARY.encode("c"), 1, *VOCABULARY.encode("d"), 1]
    assert VOCABULARY.decode(ids) == "abc"
    assert VOCABULARY.decode([]) == ""
    assert VOCABULARY.decode([1]) == ""


def test_decode_replaces_invalid_utf8_and_accepts_all_ids() -> None:
    assert VOCABULARY.decode(VOCABULARY.encode(b"a\xff\xc3")) == "a\ufffd\ufffd"
    for invalid in (2, 259, 383, 384, 2**31 - 1, -1, -(2**31)):
        assert VOCABULARY.decode([100, invalid, 101]) == "a\ufffdb"


def test_encode_accepts_a_lone_surrogate() -> None:
    assert VOCABULARY.encode("\ud800").tolist() == [0xED + 3, 0xA0 + 3, 0x80 + 3]


@given(st.lists(st.binary()))
def test_encode_texts_equals_encode_of_each_text(texts: list[bytes]) -> None:
    ids, lengths = VOCABULARY.encode_texts(texts)
    assert ids.dtype == np.int32
    assert lengths.dtype == np.int64
    assert lengths.shape == (len(texts),)
    split = np.split(ids, np.cumsum(lengths))[: len(texts)]
    assert [part.tolist() for part in split] == [VOCABULARY.encode(t).tolist() for t in texts]


def test_sentinels_are_the_last_100_byte_ids_from_the_end() -> None:
    # Xue et al. 2021, section 3.1; the first is the last of seqio's 259 ids.
    assert VOCABULARY.sentinels.tolist() == list(range(258, 158, -1))
    assert VOCABULARY.sentinel(0) == 258
    with pytest.raises(DataError, match="100 sentinels"):
        VOCABULARY.sentinel(100)


def test_fingerprint_is_the_same_in_every_process() -> None:
    expected = hashlib.sha256(b"ByteVocabulary 384").hexdigest()
    assert VOCABULARY.fingerprint == expected


def test_bytes_per_id_counts_the_bytes_of_a_row() -> None:
    row = np.array([*VOCABULARY.encode("é!"), 1, *VOCABULARY.encode("\0"), 1, 2, 300, 0, 0])
    assert VOCABULARY.bytes_per_id.shape == (384,)
    assert VOCABULARY.bytes_per_id[row].sum() == 4
    assert b"".join(VOCABULARY.token_bytes[i] for i in row) == "é!\0".encode()


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


def test_special_ids_and_bytes_have_a_text() -> None:
    texts = [VOCABULARY.token_text(token) for token in (0, 1, 2, ord("A") + 3, 0xE4 + 3, 300)]
    assert texts == ["<pad>", "</s>", "<2>", "A", "\\xe4", "<300>"]
    assert IdVocabulary(160).token_text(24) == "24"
