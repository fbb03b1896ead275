"""The vocabulary of a SentencePiece model, with T5's ids."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.vocabulary import (
    EncodedTexts,
    FileVocabulary,
    as_bytes,
    model_size,
    read_vocabulary_file,
)
from mtfrun.errors.checks import INDEX, check_range

# Its classes are made at import, where a type checker does not see them.
_PROTOS: Any = sentencepiece_model_pb2
# The character that stands for a space in pieces.
_SPACE = "\u2581"
# How a sentinel is written in text; the space before it belongs to it.
_SENTINEL = re.compile(rb" ?<extra_id_(0|[1-9][0-9]{0,5})>")
_SENTINEL_START = b"<extra_id_"


class SentencePieceModels(NamedTuple):
    """The content of a model's file, and models made of it, for other programs.

    `continuing_encoder` puts no space before the text. The decoders know sentinels, and
    `continuing_decoder` keeps a space at the beginning; the encoder of a model that
    `removes_spaces` encodes continuations that begin with white space.
    """

    encoder: bytes
    continuing_encoder: bytes
    decoder: bytes
    continuing_decoder: bytes
    removes_spaces: bool


class SentencePieceVocabulary(FileVocabulary):
    """The pieces of a SentencePiece model, then `extra_ids` sentinels, as T5 numbers them.

    Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226; Raffel et al. 2020 (T5),
    https://arxiv.org/abs/1910.10683. Sentinels count from the end: with 32,000 pieces and 100 extra
    ids, <extra_id_0> is 32,099. The size is padded to a multiple of 128, 32,128, as in T5's
    checkpoints; the ids above the last sentinel occur in no text.

    In text "<extra_id_7>" stands for its id, with a space before it: "The <extra_id_0> walks" is
    The, <extra_id_0>, walks, as in T5's tokenizers in Hugging Face's Transformers, and in seqio's
    where a space precedes.

    Most models, T5's too, put a space before a text, so that its first word is the same piece as in
    the middle; the `bytes_per_id` of the end id, -1, takes that byte off again. The bytes of a text
    are those that `decode` returns, after the model's normalisation. An unknown piece counts 0
    bytes, so that bits per byte never look better than they are. Bytes that are not UTF-8 become
    U+FFFD.

    The file is read at the first use: `mtfrun data vocab` may make it from the data.

    Args:
      sentencepiece_model_file: the model; `mtfrun data vocab` makes one. Its padding must be id 0,
        as in T5's (end 1, unknown 2), unless `pad_id` is -1.
      extra_ids: number of sentinels.
      size: the number of ids of a model that was made for this vocabulary; by default the ids,
        rounded up to a multiple of 128.
      pad_id: -1 for models without padding, such as Llama's: id 0 is their unknown token.
      puts_begin: whether texts, except continuations, begin with the file's id for it, as Llama's.
    """

    def __init__(
        self,
        sentencepiece_model_file: str,
        extra_ids: int = 100,
        size: int | None = None,
        pad_id: int = 0,
        *,
        puts_begin: bool = False,
    ):
        check_range(f"{type(self).__name__}.extra_ids", extra_ids, INDEX)
        super().__init__(sentencepiece_model_file, pad_id)
        self._size = size
        self._puts_begin = puts_begin
        self._extra_ids = extra_ids

    @property
    def unpadded_size(self) -> int:
        return int(self._encoder.get_piece_size()) + self._extra_ids

    @property
    def size(self) -> int:
        return model_size(self._file, self.unpadded_size, self._size)

    @property
    def end_id(self) -> int:
        return int(self._encoder.eos_id())

    @property
    def unknown_id(self) -> int:
        return int(self._encoder.unk_id())

    @property
    def sentinels(self) -> np.ndarray:
        last = self.unpadded_size - 1
        return np.arange(last, last - self._extra_ids, -1, dtype=np.int32)

    @functools.cached_property
    def bytes_per_id(self) -> np.ndarray:
        """Bytes of each piece; -1 for the end id if the model puts a space before a text."""
        bytes_per_id = np.array([len(text) for text in self.token_bytes], np.int32)
        if self._parse().normalizer_spec.add_dummy_prefix:
            bytes_per_id[self.end_id] = -1
        return bytes_per_id

    @functools.cached_property
    def token_bytes(self) -> Sequence[bytes]:
        texts = [b""] * self.size
        kinds = _PROTOS.ModelProto.SentencePiece
        for number, piece in enumerate(self._parse().pieces):
            if piece.type in (kinds.NORMAL, kinds.USER_DEFINED):
                texts[number] = piece.piece.replace(_SPACE, " ").encode()
            elif piece.type == kinds.BYTE:
                texts[number] = bytes([int(piece.piece[1:-1], 16)])  # <0x0A>
        return texts

    @functools.cached_property
    def fingerprint(self) -> str:
        settings = f" {self._extra_ids}" + " begin" * self._puts_begin
        return hashlib.sha256(self._proto + settings.encode()).hexdigest()

    @functools.cached_property
    def models(self) -> SentencePieceModels:
        continuing = self._parse()
        removes_spaces = bool(continuing.normalizer_spec.remove_extra_whitespaces)
        continuing.normalizer_spec.add_dummy_prefix = False
        continuing_encoder = continuing.SerializeToString()
        continuing.normalizer_spec.remove_extra_whitespaces = False
        return SentencePieceModels(
            self._proto,
            continuing_encoder,
            self._with_sentinels(self._parse()),
            self._with_sentinels(continuing),
            removes_spaces=removes_spaces,
        )

    def __repr__(self) -> str:
        begin = self._puts_begin or None
        return self._describe(f"extra_ids={self._extra_ids}", size=self._size, puts_begin=begin)

    def encode_continuation(self, text: str | bytes) -> np.ndarray:
        return self._encode(text, is_continuation=True)

    def encode_texts(self, texts: Sequence[bytes]) -> EncodedTexts:
        if not texts or self._puts_begin or any(_SENTINEL_START in text for text in texts):
            return super().encode_texts(texts)
        encoded = self._encoder.EncodeAsNumpy(list(texts))
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        return EncodedTexts(np.concatenate(encoded, dtype=np.int32), lengths)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return str(self._processors["decoder"].decode(self._tokens_before_end(ids)))

    def decode_continuation(self, ids: Sequence[int] | np.ndarray) -> str:
        return str(self._processors["continuing_decoder"].decode(self._tokens_before_end(ids)))

    def _token_text(self, token: int) -> str:
        decoder = self._processors["decoder"]
        return str(decoder.id_to_piece(token)) if 0 <= token < decoder.get_piece_size() else ""

    def _encode(self, text: str | bytes, *, is_continuation: bool = False) -> np.ndarray:
        data = as_bytes(text)
        if _SENTINEL_START not in data:
            return self._pieces(data, is_continuation=is_continuation)
        parts = []
        position = 0
        for match in _SENTINEL.finditer(data):
            number = int(match[1])
            if number < self._extra_ids:
                between = data[position : match.start()]
                parts.append(self._pieces(between, is_continuation=is_continuation))
                parts.append(self.sentinels[number : number + 1])
                position = match.end()
                is_continuation = True
        parts.append(self._pieces(data[position:], is_continuation=is_continuation))
        return np.concatenate(parts)

    def _pieces(self, data: bytes, *, is_continuation: bool) -> np.ndarray:
        encoder = self._encoder
        # A model that removes spaces at the beginning puts one there again.
        if is_continuation and not (self.models.removes_spaces and data[:1].isspace()):
            encoder = self._processors["continuing_encoder"]
        return np.asarray(encoder.EncodeAsNumpy(data), np.int32)

    @functools.cached_property
    def _begin_ids(self) -> np.ndarray:
        begin_id = int(self._encoder.bos_id())
        if self._puts_begin and begin_id < 0:
            remedy = "set SentencePieceVocabulary.puts_begin = False"
            raise DataError(f"{self._file} has no id for the beginning of a text: {remedy}")
        return np.array([begin_id] * self._puts_begin, np.int32)

    @functools.cached_property
    def _processors(self) -> Mapping[str, sentencepiece.SentencePieceProcessor]:
        """A processor for each of `models` but the first, by name."""
        models = self.models._asdict()
        names = ("continuing_encoder", "decoder", "continuing_decoder")
        return {x: sentencepiece.SentencePieceProcessor(model_proto=models[x]) for x in names}

    def _with_sentinels(self, model: Any) -> bytes:
        kind = _PROTOS.ModelProto.SentencePiece.USER_DEFINED
        for number in reversed(range(self._extra_ids)):
            model.pieces.add(piece=f"{_SPACE}<extra_id_{number}>", score=0.0, type=kind)
        return bytes(model.SerializeToString())

    @functools.cached_property
    def _proto(self) -> bytes:
        argument = "SentencePieceVocabulary.sentencepiece_model_file"
        return read_vocabulary_file(self._file, argument, "mtfrun data vocab makes one")

    @functools.cached_property
    def _encoder(self) -> sentencepiece.SentencePieceProcessor:
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=self._proto)
            if not processor.get_piece_size():
                raise RuntimeError("no pieces")
        except RuntimeError as error:
            remedy = "copy it again, or make one with mtfrun data vocab"
            message = f"{self._file} is not a SentencePiece model, or damaged: {remedy}"
            raise DataError(message) from error
        pad_id, eos_id = processor.pad_id(), processor.eos_id()
        if eos_id < 0 or (pad_id != 0 and self.pad_id != -1):
            raise DataError(
                f"{self._file}: its padding must be id 0, and its end an id, and they are {pad_id} "
                f"and {eos_id}: train it with pad_id=0, eos_id=1, unk_id=2"
            )
        return processor

    def _parse(self) -> Any:
        """Returns the model as a new protocol buffer, which is not cached: it cannot be pickled."""
        return _PROTOS.ModelProto.FromString(self._proto)
