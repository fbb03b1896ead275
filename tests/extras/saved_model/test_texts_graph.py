"""Vocabularies as graphs of TensorFlow."""

from __future__ import annotations

import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import data
from mtfrun.extras import text_tasks
from mtfrun.extras.saved_model.texts_graph import converters_of
from tests.cli.command import ROOT, environment
from tests.data.vocabularies.small_models import t5_like_model

# Bytes that begin, continue and break characters of UTF-8.
_BYTES = bytes([0x00, 0x41, 0x80, 0xBF, 0xC3, 0xE0, 0xA0, 0xED, 0xE2, 0x82, 0xAC, 0xF0, 0x90, 0xFF])


def test_bytes_become_ids_and_back() -> None:
    vocabulary = data.ByteVocabulary()
    encoder, decoder, _ = converters_of(vocabulary, continues=True)
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
    labels = text_tasks.LabelVocabulary(["no", "yes"])
    encoder, decoder, _ = converters_of(labels)
    assert encoder is None and decoder is not None
    assert decoder(tf.constant([[4], [3], [0], [300]])).numpy().tolist() == [
        b"yes",
        b"no",
        b"",
        b"",
    ]
    assert converters_of(data.IdVocabulary(9)).decoder is None


_PROGRAM = r"""
import random, sys
import numpy as np, tensorflow as tf
from mtfrun import data
import mtfrun.extras.saved_model
from mtfrun.extras.saved_model.texts_graph import converters_of

vocabulary = data.SentencePieceVocabulary(sys.argv[1])
encoder = converters_of(vocabulary, tensorflow_text=True).encoder
generator = random.Random(0)
words = [b"the ", b" quick", b"  ", b"\n", b"\xff", b"\xe2\x82", b"<extra_id_0>", b" <extra_id_99>"]
words += [b"<extra_id_100>", b"<extra_id_7", b"\tx", "café".encode(), b"."]
texts = [b"", b" ", b"<extra_id_1>", b"<extra_id_0><extra_id_3> a"]
texts += [b"".join(generator.choices(words, k=generator.randint(1, 9))) for _ in range(300)]
ids, lengths = (x.numpy() for x in encoder(tf.constant(texts)))
for text, row, length in zip(texts, ids, lengths):
    assert row[:length].tolist() == vocabulary.encode(text).tolist(), text
rows = np.random.default_rng(0).integers(2, vocabulary.size, [100, 9]).astype(np.int32)
rows[:, 4] = 0
for continues in (False, True):
    decoder = converters_of(vocabulary, continues=continues, tensorflow_text=True).decoder
    decode = vocabulary.decode_continuation if continues else vocabulary.decode
    assert decoder(tf.constant(rows)).numpy().tolist() == [decode(row).encode() for row in rows]
print("equal")
"""


@pytest.mark.slow
def test_ids_and_texts_are_those_of_the_vocabulary(tmp_path: pathlib.Path) -> None:
    # In a process of its own: tensorflow_text registers operations.
    path = tmp_path / "small.model"
    path.write_bytes(t5_like_model())
    process = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path)],
        capture_output=True,
        cwd=ROOT,
        env=environment(),
        timeout=300,
    )
    assert process.stdout.decode().strip().endswith("equal"), process.stderr.decode()
