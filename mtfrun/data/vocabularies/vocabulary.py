"""The base class of vocabularies."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.files import LARGEST_CONTENT, absolute_path
from mtfrun.errors.untrusted import read_regular

NO_END = -2
"""The end id of vocabularies without one: no id equals it."""

BEGIN_MARK, END_MARK = "\ufdd0", "\ufdd1"
"""Stand for the ids that begin and end a text, in texts to encode: noncharacters of Unicode."""


class EncodedTexts(NamedTuple):
    """The int32 ids of several texts, one after the other, and int64 [texts] the number of each."""

    ids: np.ndarray
    lengths: np.ndarray


class Vocabulary(abc.ABC):
    """Text to ids and back, for models, data and decoding.

    Attributes:
      labels: the names of classes, of which a text is one; empty if texts are running text.
      has_label_sets: a text is a set of labels.
      padding_remedy: the setting that gives padding another id; "" for `TokenEmbedding.padding_id`.
    """

    labels: Sequence[str] = ()
    has_label_sets: bool = False
    padding_remedy: str = ""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of ids, including padding to a size that a mesh axis can divide."""

    @property
    def unpadded_size(self) -> int:
        """Number of ids that occur in texts; larger ids are only padding of the vocabulary."""
        return self.size

    @property
    @abc.abstractmethod
    def pad_id(self) -> int:
        """The id of padding, 0; or -1 where 0 is a token, for models with this `padding_id`."""

    @property
    @abc.abstractmethod
    def end_id(self) -> int:
        """The id that ends a text, or `NO_END`."""

    @property
    @abc.abstractmethod
    def unknown_id(self) -> int:
        """The id of text that the vocabulary cannot represent."""

    @property
    @abc.abstractmethod
    def sentinels(self) -> np.ndarray:
        """int32 [sentinels], maybe empty: ids of the marks of span corruption, in order of use."""

    @property
    @abc.abstractmethod
    def bytes_per_id(self) -> np.ndarray:
        """[size] int32 bytes of text that each id represents, 0 for special ids.

        Bits per byte = (sum of the loss in nats over all targets) / ln 2 /
        `bytes_per_id[targets].sum()`. The end id has a loss, since a code for several documents
        must encode where each ends, and no byte; -1 if the vocabulary puts a byte before a text.
        """

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes that each id writes within a text; b"" for special ids."""
        has_bytes = self.bytes_per_id > 0
        return [self.decode([i]).encode() if has_bytes[i] else b"" for i in range(self.size)]

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of everything that determines the ids of a text."""

    @property
    def files(self) -> Sequence[str]:
        return ()

    @abc.abstractmethod
    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the int32 ids of `text`, without an end id."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text before the first end id; accepts all ids."""

    def encode_continuation(self, text: str | bytes) -> np.ndarray:
        """Returns the ids of a text that continues another, without an end id."""
        return self.encode(text)

    def decode_continuation(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text before the first end id, of ids that continue a text."""
        return self.decode(ids)

    def decode_output(self, ids: np.ndarray, *, continues: bool) -> str:
        """Returns the text of an output, which may end with other ids than `end_id`."""
        ids = ids[ids != self.end_id]
        return self.decode_continuation(ids) if continues else self.decode(ids)

    def special_texts(self, template_tokens: Mapping[str, str]) -> Mapping[str, str]:
        """Returns the texts of a template's special tokens, in the form that `encode_spans` reads.

        `template_tokens` are the tokens of the template's tokenizer: "bos_token", "eos_token", ....
        """
        begin = BEGIN_MARK if len(self.encode("")) else ""
        return {**template_tokens, "bos_token": begin, "eos_token": END_MARK}

    def encode_spans(
        self, text: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the int32 ids of a text with special texts, and bool whether each is in a span.

        Spans are [begin, end) of characters, in order; no id crosses a bound.
        """
        begin_ids = self.encode("")
        marks = [i for i, character in enumerate(text) if character in (BEGIN_MARK, END_MARK)]
        bounds = {0, len(text), *itertools.chain(*spans), *marks, *(i + 1 for i in marks)}
        ids, is_inside = [np.zeros([0], np.int32)], [np.zeros([0], bool)]
        for first, last in itertools.pairwise(sorted(bounds)):
            piece = text[first:last]
            if piece == BEGIN_MARK:
                part = begin_ids
            elif piece == END_MARK:
                part = np.array([self.end_id], np.int32)
            elif first == 0:
                part = self.encode(piece)[len(begin_ids) :]
            else:
                part = self.encode_continuation(piece)
            ids.append(part)
            is_in_span = any(begin <= first < end for begin, end in spans)
            is_inside.append(np.full(len(part), is_in_span))
        return np.concatenate(ids), np.concatenate(is_inside)

    def encode_texts(self, texts: Sequence[bytes]) -> EncodedTexts:
        encoded = [self.encode(text) for text in texts]
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        ids = np.concatenate(encoded) if encoded else np.zeros([0], np.int32)
        return EncodedTexts(ids, lengths)

    def token_text(self, token: int) -> str:
        """Returns the text of one id, for people; special ids have a name such as "<pad>"."""
        if token == self.pad_id:
            return "<pad>"
        return "</s>" if token == self.end_id else self._token_text(token) or f"<{token}>"

    def _token_text(self, token: int) -> str:
        return self.decode([token])

    def sentinel(self, number: int) -> int:
        if number >= len(self.sentinels):
            problem = f"{type(self).__name__} has {len(self.sentinels)} sentinels"
            remedy = "choose shorter rows, longer spans, or more extra_ids"
            raise DataError(f"{problem}, and a row needs {number + 1}: {remedy}")
        return int(self.sentinels[number])


class FileVocabulary(Vocabulary):
    """A vocabulary of a tokenizer's file; `pad_id` is 0 or -1."""

    pad_id: int = 0

    def __init__(self, file: str, pad_id: int):
        if pad_id not in (0, -1):
            raise DataError(
                f"{type(self).__name__}.pad_id={pad_id} must be 0, or -1 where 0 is a token"
            )
        self._file = file
        self.pad_id = pad_id

    @property
    def files(self) -> Sequence[str]:
        return [self._file]

    @property
    @abc.abstractmethod
    def _begin_ids(self) -> np.ndarray: ...

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.concatenate([self._begin_ids, self._encode(text)])

    @abc.abstractmethod
    def _encode(self, text: str | bytes) -> np.ndarray: ...

    def _describe(self, *arguments: str, **settings: object) -> str:
        parts = [f"{name}={value!r}" for name, value in settings.items() if value is not None]
        if self.pad_id:
            parts.append(f"pad_id={self.pad_id}")
        return f"{type(self).__name__}({', '.join([repr(self._file), *arguments, *parts])})"

    def _tokens_before_end(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        """Returns the ids of text; ids that the file lacks become unknown."""
        array = before_end(ids, self.end_id)
        array = array[~np.isin(array, [self.pad_id, *self._begin_ids])]
        has_token = (array >= 0) & (array < self.unpadded_size)
        tokens: list[int] = np.where(has_token, array, self.unknown_id).tolist()
        return tokens


def padded_size(ids: int) -> int:
    """Rounds up to a multiple of 128, so that a mesh axis can divide the size: 32,100 to 32,128."""
    return -(-ids // 128) * 128


def model_size(name: str, ids: int, size: int | None) -> int:
    if size is not None and size < ids:
        rule = f"more than size={size}, the ids that the model knows"
        raise DataError(f"{name} has {ids} ids, {rule}: choose the file that belongs to the model")
    return padded_size(ids) if size is None else size


def as_bytes(text: str | bytes) -> bytes:
    """Returns UTF-8; lone surrogates, which JSON may contain, become three bytes."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def before_end(ids: Sequence[int] | np.ndarray, end_id: int) -> np.ndarray:
    array = np.asarray(ids, dtype=np.int64).reshape(-1)
    ends = np.flatnonzero(array == end_id)
    return array[: ends[0]] if ends.size else array


def read_vocabulary_file(name: str, argument: str, remedy: str) -> bytes:
    try:
        return read_regular(absolute_path(name), LARGEST_CONTENT)
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{argument}: cannot read {name}: {reason}; {remedy}") from error


class MarkedVocabulary(Vocabulary):
    """The ids of a vocabulary, larger by its size where they are marked; subclasses encode.

    So a cache has both an id and its mark in one number.
    """

    size: int = 0
    pad_id: int = 0
    end_id: int = 0
    unknown_id: int = 0
    sentinels = np.zeros([0], np.int32)

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary, self.size = vocabulary, 2 * vocabulary.size
        self.pad_id, self.end_id = vocabulary.pad_id, vocabulary.end_id
        self.unknown_id = vocabulary.unknown_id

    @property
    def bytes_per_id(self) -> np.ndarray:
        return np.tile(self._vocabulary.bytes_per_id, 2)

    @property
    def token_bytes(self) -> Sequence[bytes]:
        return [*self._vocabulary.token_bytes] * 2

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._vocabulary.decode(self.divide(np.asarray(ids))[0])

    def mark(self, ids: np.ndarray, is_marked: np.ndarray) -> np.ndarray:
        return ids + np.int32(self._vocabulary.size) * is_marked

    def divide(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids of the vocabulary, and bool whether they are marked; same shapes."""
        return divide_marked(ids, self._vocabulary.size)


def divide_marked(ids: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    is_marked = ids >= size
    return np.where(is_marked, ids - size, ids), is_marked
