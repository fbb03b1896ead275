from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from mtfrun.data import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from mtfrun.errors import install_command
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.text_tasks import LabelVocabulary

Encoder: TypeAlias = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Strings [texts] of any bytes to ids int32 [texts, longest], and lengths."""

Decoder: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""Ids int32 [texts, length], without an end, to strings [texts]."""


class Converters(NamedTuple):
    """What a vocabulary does, with TensorFlow's operations; None where there is none.

    Attributes:
      encoder: `Vocabulary.encode`.
      decoder: `Vocabulary.decode`, or `decode_continuation` of texts that continue a prompt.
      labels: the ids of all texts of a vocabulary of labels.
    """

    encoder: Encoder | None = None
    decoder: Decoder | None = None
    labels: Mapping[str, int] | None = None


@functools.singledispatch
def converters_of(
    vocabulary: Vocabulary, *, continues: bool = False, tensorflow_text: bool = False
) -> Converters:
    """Decodes texts that continue a prompt if `continues`; may use tensorflow_text's operations."""
    del vocabulary, continues, tensorflow_text
    return Converters()


def replace_invalid_utf8(texts: tf.Tensor) -> tf.Tensor:
    """Inserts U+FFFD as `bytes.decode` does."""
    return tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD
    )


class _SentencePieceEncoder(tf.Module):  # type: ignore[misc]
    def __init__(self, vocabulary: SentencePieceVocabulary) -> None:
        super().__init__()
        self._text = _tensorflow_text()
        models = vocabulary.models
        self._first = _tokenizer(models.encoder)
        self._continuing = _tokenizer(models.continuing_encoder)
        self._removes_spaces = models.removes_spaces
        self._pad_id = vocabulary.pad_id
        self._sentinels = tuple(vocabulary.sentinels.tolist())
        numbers = "|".join(map(str, range(len(self._sentinels))))
        self._pattern = f" ?<extra_id_(?:{numbers})>" if numbers else None

    def __call__(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ids = self._first.tokenize(texts) if self._pattern is None else self._with_sentinels(texts)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        return ids.to_tensor(self._pad_id), lengths

    def _with_sentinels(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids of texts in which "<extra_id_7>" is a sentinel."""
        parts = self._text.regex_split(texts, self._pattern, self._pattern)
        part = parts.flat_values
        is_sentinel = tf.strings.regex_full_match(part, self._pattern)
        begins_text = tf.scatter_nd(
            tf.boolean_mask(parts.row_starts(), parts.row_lengths() > 0)[:, None],
            tf.ones([tf.math.count_nonzero(parts.row_lengths())], tf.int32),
            tf.shape(part, tf.int64),
        )
        encodes_as_first = begins_text > 0
        if self._removes_spaces:
            encodes_as_first |= tf.strings.regex_full_match(
                tf.strings.substr(part, 0, 1), r"[ \t\n\r\f\v]"
            )
        # Of the three kinds of ids of a part, two are empty.
        first = self._first.tokenize(tf.where(encodes_as_first & ~is_sentinel, part, ""))
        later = self._continuing.tokenize(
            tf.where(encodes_as_first | is_sentinel, tf.constant(""), part)
        )
        digits = tf.strings.regex_replace(tf.boolean_mask(part, is_sentinel), "[^0-9]", "")
        sentinels = tf.RaggedTensor.from_row_lengths(
            tf.gather(tf.constant(self._sentinels), tf.strings.to_number(digits, tf.int32)),
            tf.cast(is_sentinel, tf.int64),
        )
        ids = tf.concat([first, later, sentinels], axis=1)
        return tf.RaggedTensor.from_row_splits(ids, parts.row_splits).merge_dims(1, 2)


class _SentencePieceDecoder(tf.Module):  # type: ignore[misc]
    def __init__(self, vocabulary: SentencePieceVocabulary, *, continues: bool) -> None:
        super().__init__()
        models = vocabulary.models
        model = models.continuing_decoder if continues else models.decoder
        self._tokenizer = _tokenizer(model)
        self._size = vocabulary.unpadded_size
        self._pad_id, self._unknown_id = vocabulary.pad_id, vocabulary.unknown_id

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        pieces = tf.where(ids < self._size, ids, self._unknown_id)
        return self._tokenizer.detokenize(tf.ragged.boolean_mask(pieces, ids != self._pad_id))


def _tokenizer(model: bytes) -> Any:
    # A program that loads a SavedModel shares tokenizers of one name, by default the same for all.
    name = f"sentencepiece_{hashlib.sha256(model).hexdigest()}"
    return _tensorflow_text().SentencepieceTokenizer(model, name=name)


def _tensorflow_text() -> Any:
    try:
        return importlib.import_module("tensorflow_text")
    except ImportError as error:
        package = f"tensorflow-text=={tf.__version__.rpartition('.')[0]}.*"
        raise ConversionError(
            f"--tensorflow_text needs the package: {install_command(package)}"
        ) from error


@converters_of.register
def _(vocabulary: ByteVocabulary, **_: bool) -> Converters:
    offset = int(vocabulary.encode(b"\0")[0])
    # A byte that never occurs in UTF-8 stands for ids that are not bytes.
    text_of_id = [b"\xff"] * vocabulary.size
    text_of_id[offset : offset + 256] = [bytes([value]) for value in range(256)]
    text_of_id[vocabulary.pad_id] = b""

    def encode(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        lengths = tf.strings.length(texts)
        longest = tf.maximum(tf.reduce_max(lengths), 1)
        values = tf.io.decode_raw(texts, tf.uint8, fixed_length=longest)
        return tf.cast(values, tf.int32) + offset, lengths

    def decode(ids: tf.Tensor) -> tf.Tensor:
        texts = tf.gather(tf.constant(text_of_id), ids)
        return replace_invalid_utf8(tf.strings.reduce_join(texts, axis=-1))

    return Converters(encode, decode)


@converters_of.register
def _(vocabulary: LabelVocabulary, **_: bool) -> Converters:
    labels = {label: int(vocabulary.encode(label)[0]) for label in vocabulary.labels}
    text_of_id = [vocabulary.decode([number]).encode() for number in range(vocabulary.size)]

    def decode(ids: tf.Tensor) -> tf.Tensor:
        first = ids[:, 0]
        # A model may have more ids than there are labels.
        number = tf.where(first < len(text_of_id), first, vocabulary.pad_id)
        return tf.gather(tf.constant(text_of_id), number)

    return Converters(None, decode, labels)


@converters_of.register
def _(
    vocabulary: SentencePieceVocabulary, *, continues: bool = False, tensorflow_text: bool = False
) -> Converters:
    if not tensorflow_text:
        return Converters()
    decoder = _SentencePieceDecoder(vocabulary, continues=continues)
    return Converters(_SentencePieceEncoder(vocabulary), decoder)
