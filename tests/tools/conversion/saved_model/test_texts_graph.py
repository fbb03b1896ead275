"""Texts become ids, and ids texts, in a SavedModel as vocabularies make them."""

from __future__ import annotations

import random

import numpy as np
import tensorflow as tf

from mtfrun import data
from mtfrun.tools.conversion.saved_model.texts_graph import decoder_of, encoder_of

# Bytes that begin, continue and break characters of UTF-8.
_BYTES = bytes([0x00, 0x41, 0x80, 0xBF, 0xC3, 0xE0, 0xA0, 0xED, 0xE2, 0x82, 0xAC, 0xF0, 0x90, 0xFF])


def test_bytes_become_ids_and_back() -> None:
    vocabulary = data.ByteVocabulary()
    encoder = encoder_of(vocabulary, tensorflow_text=False)
    decoder = decoder_of(vocabulary, continuing=True, tensorflow_text=False)
    assert encoder is not None and decoder is not None
    generator = random.Random(0)
    texts = [bytes(generator.choices(_BYTES, k=generator.randint(0, 9))) for _ in range(2000)]
    ids, lengths = (x.numpy() for x in encoder(tf.constant(texts)))
    for text, row, length in zip(texts, ids, lengths, strict=True):
        assert row[:length].tolist() == vocabulary.encode(text).tolist()
    rows = np.random.default_rng(0).integers(2, vocabulary.size, [500, 8]).astype(np.int32)
    rows[:, 5] = 0
    expected = [vocabulary.decode(row).encode() for row in rows]
    assert decoder(tf.constant(rows)).numpy().tolist() == expected


def test_labels_have_no_encoder_and_other_vocabularies_neither() -> None:
    labels = data.LabelVocabulary(["no", "yes"])
    assert encoder_of(labels, tensorflow_text=False) is None
    decoder = decoder_of(labels, continuing=False, tensorflow_text=False)
    assert decoder is not None
    assert decoder(tf.constant([[4], [3], [0], [300]])).numpy().tolist() == [
        b"yes",
        b"no",
        b"",
        b"",
    ]
    assert decoder_of(data.IdVocabulary(9), continuing=False, tensorflow_text=False) is None
