from __future__ import annotations

import abc
import functools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mtfrun.data import ByteVocabulary, LabelVocabulary, Vocabulary


class Encoder(tf.Module, abc.ABC):  # type: ignore[misc]
    """Texts to ids, as `Vocabulary.encode`."""

    @abc.abstractmethod
    def __call__(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """texts: strings [texts] of any bytes; returns ids int32 [texts, longest], and lengths."""


class Decoder(tf.Module, abc.ABC):  # type: ignore[misc]
    """Ids to texts, as `Vocabulary.decode` or `decode_continuation`."""

    @abc.abstractmethod
    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """ids: int32 [texts, length], without an end; returns strings [texts]."""


@functools.singledispatch
def encoder_of(vocabulary: Vocabulary, *, tensorflow_text: bool) -> Encoder | None:
    """Returns None if there is none; `tensorflow_text` allows operations of that package."""
    del vocabulary, tensorflow_text
    return None


@functools.singledispatch
def decoder_of(
    vocabulary: Vocabulary, *, continuing: bool, tensorflow_text: bool
) -> Decoder | None:
    """Decodes texts that continue a prompt if `continuing`."""
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


def replace_invalid_utf8(texts: tf.Tensor) -> tf.Tensor:
    """Inserts U+FFFD as `bytes.decode` does."""
    return tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD
    )


class _ByteEncoder(Encoder):
    def __init__(self, vocabulary: ByteVocabulary) -> None:
        super().__init__()
        self._offset = int(vocabulary.encode(b"\0")[0])

    def __call__(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        lengths = tf.strings.length(texts)
        longest = tf.maximum(tf.reduce_max(lengths), 1)
        values = tf.io.decode_raw(texts, tf.uint8, fixed_length=longest)
        return tf.cast(values, tf.int32) + self._offset, lengths


class _ByteDecoder(Decoder):
    def __init__(self, vocabulary: ByteVocabulary) -> None:
        super().__init__()
        offset = int(vocabulary.encode(b"\0")[0])
        # A byte that never occurs in UTF-8 stands for ids that are not bytes.
        texts = np.full([vocabulary.size], b"\xff", object)
        texts[offset : offset + 256] = [bytes([value]) for value in range(256)]
        texts[vocabulary.pad_id] = b""
        self._text_of_id = tuple(texts)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        texts = tf.gather(tf.constant(list(self._text_of_id)), ids)
        return replace_invalid_utf8(tf.strings.reduce_join(texts, axis=-1))


class _LabelDecoder(Decoder):
    def __init__(self, vocabulary: LabelVocabulary) -> None:
        super().__init__()
        self._pad_id = vocabulary.pad_id
        self._text_of_id = tuple(
            vocabulary.decode([number]).encode() for number in range(vocabulary.size)
        )

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        first = ids[:, 0]
        # A model may have more ids than there are labels.
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
