from __future__ import annotations

import hashlib
import importlib
from typing import Any

import tensorflow as tf

from mtfrun.data import SentencePieceVocabulary
from mtfrun.errors import install_command
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.saved_model.texts_graph import (
    Decoder,
    Encoder,
    decoder_of,
    encoder_of,
)


class _SentencePieceEncoder(Encoder):
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


class _SentencePieceDecoder(Decoder):
    def __init__(self, vocabulary: SentencePieceVocabulary, *, continuing: bool) -> None:
        super().__init__()
        models = vocabulary.models
        model = models.continuing_decoder if continuing else models.decoder
        self._tokenizer = _tokenizer(model)
        self._size = vocabulary.unpadded_size
        self._pad_id, self._unknown_id = vocabulary.pad_id, vocabulary.unknown_id

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        pieces = tf.where(ids < self._size, ids, self._unknown_id)
        return self._tokenizer.detokenize(tf.ragged.boolean_mask(pieces, ids != self._pad_id))


@encoder_of.register
def _(vocabulary: SentencePieceVocabulary, *, tensorflow_text: bool) -> Encoder | None:
    return _SentencePieceEncoder(vocabulary) if tensorflow_text else None


@decoder_of.register
def _(
    vocabulary: SentencePieceVocabulary, *, continuing: bool, tensorflow_text: bool
) -> Decoder | None:
    return _SentencePieceDecoder(vocabulary, continuing=continuing) if tensorflow_text else None


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
