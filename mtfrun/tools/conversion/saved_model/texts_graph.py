"""Texts to ids and back as operations of TensorFlow."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping
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


class Encoder(tf.Module, abc.ABC):  # type: ignore[misc]
    """Texts to ids, as `Vocabulary.encode`."""

    @abc.abstractmethod
    def __call__(self, texts: tf.Tensor) -> GraphIds:
        """Returns the ids of texts, strings [texts] of any bytes."""


class Decoder(tf.Module, abc.ABC):  # type: ignore[misc]
    """Ids to texts, as `Vocabulary.decode` or `decode_continuation`."""

    @abc.abstractmethod
    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the texts [texts] of ids, int32 [texts, length], without an end."""


@functools.singledispatch
def encoder_of(vocabulary: Vocabulary, *, tensorflow_text: bool) -> Encoder | None:
    """Returns the encoder of a vocabulary, None if it has none.

    Args:
      vocabulary: of prompts.
      tensorflow_text: whether operations of tensorflow_text may be used.
    """
    del vocabulary, tensorflow_text
    return None


@functools.singledispatch
def decoder_of(
    vocabulary: Vocabulary, *, continuing: bool, tensorflow_text: bool
) -> Decoder | None:
    """Returns the decoder of a vocabulary, for texts that continue others or not, likewise."""
    del vocabulary, continuing, tensorflow_text
    return None


@functools.singledispatch
def labels_of(vocabulary: Vocabulary) -> Mapping[str, int] | None:
    """Returns the ids of all texts of a vocabulary of labels; None for running text."""
    del vocabulary
    return None


@labels_of.register
def _(vocabulary: LabelVocabulary) -> Mapping[str, int]:
    return {label: int(vocabulary.encode(label)[0]) for label in vocabulary.labels}


def replaced(texts: tf.Tensor) -> tf.Tensor:
    """Returns texts with U+FFFD for what is no UTF-8, as `bytes.decode` puts it."""
    return tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD
    )


class _ByteEncoder(Encoder):
    """Bytes to ids."""

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        super().__init__()
        self._offset = int(vocabulary.encode(b"\0")[0])

    def __call__(self, texts: tf.Tensor) -> GraphIds:
        """Returns the ids of texts."""
        lengths = tf.strings.length(texts)
        longest = tf.maximum(tf.reduce_max(lengths), 1)
        values = tf.io.decode_raw(texts, tf.uint8, fixed_length=longest)
        return GraphIds(tf.cast(values, tf.int32) + self._offset, lengths)


class _ByteDecoder(Decoder):
    """Ids to bytes."""

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        super().__init__()
        offset = int(vocabulary.encode(b"\0")[0])
        # A byte that never occurs in UTF-8 stands for ids that are no bytes.
        texts = np.full([vocabulary.size], b"\xff", object)
        texts[offset : offset + 256] = [bytes([value]) for value in range(256)]
        texts[vocabulary.pad_id] = b""
        self._text_of_id = tuple(texts)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the texts of ids."""
        texts = tf.gather(tf.constant(list(self._text_of_id)), ids)
        return replaced(tf.strings.reduce_join(texts, axis=-1))


class _LabelDecoder(Decoder):
    """The first id to a label."""

    def __init__(self, vocabulary: LabelVocabulary) -> None:
        super().__init__()
        self._pad_id = vocabulary.pad_id
        self._text_of_id = tuple(
            vocabulary.decode([number]).encode() for number in range(vocabulary.size)
        )

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the labels of ids; a model may have more ids than there are labels."""
        first = ids[:, 0]
        number = tf.where(first < len(self._text_of_id), first, self._pad_id)
        return tf.gather(tf.constant(list(self._text_of_id)), number)


@encoder_of.register
def _(vocabulary: ByteVocabulary, *, tensorflow_text: bool) -> Encoder:
    del tensorflow_text
    return _ByteEncoder(vocabulary)


@decoder_of.register
def _(vocabulary: ByteVocabulary, *, continuing: bool, tensorflow_text: bool) -> Decoder:
    del continuing, tensorflow_text
    return _ByteDecoder(vocabulary)


@decoder_of.register
def _(vocabulary: LabelVocabulary, *, continuing: bool, tensorflow_text: bool) -> Decoder:
    del continuing, tensorflow_text
    return _LabelDecoder(vocabulary)
