"""The byte vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.data import ByteVocabulary

VOCABULARY = ByteVocabulary()
HOSTILE = [b"", b"\x00", b"a\r\nb\r\n", bytes(range(256)), "é漢🙂".encode(), b"\xff\xfe"]


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


def test_encoding_in_a_graph_equals_encoding_on_the_host() -> None:
    encode = tf.function(VOCABULARY.encode_documents)
    encoded = encode(tf.constant(HOSTILE))
    assert encoded.dtype == tf.int32
    assert encoded.to_list() == [VOCABULARY.encode(text).tolist() for text in HOSTILE]
    assert encode(tf.constant([], tf.string)).to_list() == []


def test_bytes_per_id_counts_the_bytes_of_a_row() -> None:
    row = np.array([*VOCABULARY.encode("é!"), 1, *VOCABULARY.encode("\0"), 1, 2, 300, 0, 0])
    assert VOCABULARY.bytes_per_id.shape == (384,)
    assert VOCABULARY.bytes_per_id[row].sum() == 4
