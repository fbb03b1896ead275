"""Texts to ids and back as operations of TensorFlow, which every program has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun.data import ByteVocabulary, LabelVocabulary, Vocabulary


class GraphIds(NamedTuple):
    """The ids of texts.

    Attributes:
      ids: int32 [texts, longest], padded on the right.
      lengths: int32 [texts].
    """

    ids: tf.Tensor
    lengths: tf.Tensor


Encoder = Callable[[tf.Tensor], GraphIds]
"""Returns the ids of texts, strings [texts] of any bytes."""

Decoder = Callable[[tf.Tensor], tf.Tensor]
"""Returns the texts [texts] of ids, int32 [texts, length], which have no end."""


@functools.singledispatch
def encoder_of(vocabulary: Vocabulary) -> Encoder | None:
    """Returns `vocabulary.encode` as operations of TensorFlow, None if it has no such form."""
    del vocabulary


@functools.singledispatch
def decoder_of(vocabulary: Vocabulary, *, continuing: bool) -> Decoder | None:
    """Returns `vocabulary.decode`, or `decode_continuation`, likewise."""
    del vocabulary, continuing


@functools.singledispatch
def labels_of(vocabulary: Vocabulary) -> Mapping[str, int] | None:
    """Returns the ids of all texts of a vocabulary of labels; None for running text."""
    del vocabulary


@labels_of.register
def _(vocabulary: LabelVocabulary) -> Mapping[str, int]:
    return {label: int(vocabulary.encode(label)[0]) for label in vocabulary.labels}


def replaced(texts: tf.Tensor) -> tf.Tensor:
    """Returns texts with U+FFFD for what is no UTF-8, as `bytes.decode` puts it."""
    return tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD
    )


@encoder_of.register
def _(vocabulary: ByteVocabulary) -> Encoder:
    # The first byte's id, whatever the vocabulary is.
    offset = int(vocabulary.encode(b"\0")[0])

    def encode(texts: tf.Tensor) -> GraphIds:
        lengths = tf.strings.length(texts)
        longest = tf.maximum(tf.reduce_max(lengths, axis=0), 1)
        values = tf.io.decode_raw(texts, tf.uint8, fixed_length=longest)
        return GraphIds(tf.cast(values, tf.int32) + offset, lengths)

    return encode


@decoder_of.register
def _(vocabulary: ByteVocabulary, *, continuing: bool) -> Decoder:
    del continuing
    offset = int(vocabulary.encode(b"\0")[0])
    # A byte that never occurs in UTF-8 stands for ids that are no bytes.
    text_of_id = np.full([vocabulary.size], b"\xff", object)
    text_of_id[offset : offset + 256] = [bytes([value]) for value in range(256)]
    text_of_id[vocabulary.pad_id] = b""

    def decode(ids: tf.Tensor) -> tf.Tensor:
        table = tf.constant(text_of_id.tolist())
        return replaced(tf.strings.reduce_join(tf.gather(table, ids), axis=-1))

    return decode


@decoder_of.register
def _(vocabulary: LabelVocabulary, *, continuing: bool) -> Decoder:
    del continuing
    text_of_id = [vocabulary.decode([number]).encode() for number in range(vocabulary.size)]

    def decode(ids: tf.Tensor) -> tf.Tensor:
        # A model may have more ids than there are labels.
        number = tf.where(ids[:, 0] < len(text_of_id), ids[:, 0], vocabulary.pad_id)
        return tf.gather(tf.constant(text_of_id), number)

    return decode
