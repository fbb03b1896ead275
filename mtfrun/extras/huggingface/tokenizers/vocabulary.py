"""The vocabulary of Hugging Face's tokenizer.json."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun.data.errors import DataError, import_package
from mtfrun.data.vocabularies.vocabulary import (
    EncodedTexts,
    FileVocabulary,
    as_bytes,
    model_size,
    padded_size,
    read_vocabulary_file,
)
from mtfrun.display.streams import quiet_stderr
from mtfrun.errors import did_you_mean

_DAMAGED = "{} is not a tokenizer.json, or damaged: "
_SAVE_AGAIN = "save it again with save_pretrained"
# End tokens, and unknown tokens, in search order.
_END_TOKENS = (
    *("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|end|>", "<|im_end|>", "[SEP]"),
)
_UNKNOWN_TOKENS = ("<unk>", "[UNK]", "<|unk|>")
_MASK_TOKENS = ("[MASK]", "<mask>")
_SENTINEL = re.compile(r"<extra_id_([0-9]+)>")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"
# A text in several scripts, to find tokenizers that panic.
_TRIAL = "A b\u00e9 1,\n\u4e2d"
_UNREADABLE = "the tokenizer cannot read a text: ", "choose another tokenizer"
# A character that no tokenizer has as a token.
_TEXT = "\ufdd0"
# Maximum id, since arrays have an entry per id.
_LARGEST_ID = 1 << 26
# The bytes of byte-level characters: printable characters stand for themselves, characters from
# 256 on for all other bytes in order. Radford et al. 2019, GPT-2, `encoder.py`.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_LEVEL = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(256 + i): byte for i, byte in enumerate(sorted({*range(256)} - {*_PRINTABLE}))},
}
# Marks pieces after the first of a word in WordPiece.
_SUFFIX_MARK = "##"


class HuggingFaceVocabulary(FileVocabulary):
    """A tokenizer.json, the file that Hugging Face's fast tokenizers save.

    Needs the package `tokenizers`: pip install tokenizers.

    Ids are the file's. For padding, id 0 must be a special token: <pad> in T5's file, [PAD] in
    BERT's, <unk> in Llama 2's, <s> in RoBERTa's. If it is a piece of text, as in GPT-2's and Qwen's
    ("!"), set `TokenEmbedding.padding_id` and `pad_id` to -1. Only `begin_token` and the end are
    added to a text. The sentinels are <extra_id_0>, <extra_id_1>, ..., or else [MASK] or <mask>.

    `bytes_per_id` follows the file's decoder, with byte-level tokens, byte fallback and spaces;
    normalised characters count as `decode` writes them.

    Args:
      end_token: the special token that ends a text; by default the first of </s>, <|endoftext|>,
        <|end_of_text|>, <eos>, <|end|>, <|im_end|> and [SEP] in the file.
      begin_token: the special token before every text that does not continue another.
      last_token: the special token after every such text, before its end, such as the language of
        mBART's inputs.
      size: the model's number of ids; by default the file's, rounded up to a multiple of 128.
      pad_id: the padding id, 0, or -1 if 0 is a token.
    """

    size: int = 0
    end_id: int = 0
    unknown_id: int = 0
    fingerprint: str = ""
    _begin_ids: np.ndarray = np.zeros([0], np.int32)

    def __init__(
        self,
        tokenizer_file: str,
        end_token: str | None = None,
        *,
        begin_token: str | None = None,
        last_token: str | None = None,
        size: int | None = None,
        pad_id: int = 0,
    ):
        super().__init__(tokenizer_file, pad_id)
        self._arguments = (end_token, begin_token, last_token)
        content = read_vocabulary_file(
            tokenizer_file, "HuggingFaceVocabulary.tokenizer_file", "save_pretrained writes one"
        )
        self.fingerprint = hashlib.sha256(content + repr(self._arguments).encode()).hexdigest()
        self._tokenizer = load_tokenizer(tokenizer_file, content)
        self._settings = _read_settings(tokenizer_file, content)
        self._added = {
            token["content"]: token["id"] for token in self._settings.get("added_tokens") or []
        }
        model_unknown = (self._settings.get("model") or {}).get("unk_token")
        padding = self._tokenizer.id_to_token(pad_id) if pad_id == 0 else None
        if padding is not None and padding not in self._added and padding != model_unknown:
            raise DataError(
                f'{self._file}: id 0, the padding, is the piece of text "{padding}": set pad_id=-1 '
                "and TokenEmbedding.padding_id=-1"
            )
        self._tokens: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if not self._tokens:
            raise DataError(f"{tokenizer_file} has no tokens")
        if self.unpadded_size > _LARGEST_ID:
            raise DataError(f"{tokenizer_file} has an id of {self.unpadded_size - 1:,}")
        self.size = model_size(tokenizer_file, self.unpadded_size, size)
        self.end_id = self._first_id("end_token", end_token, _END_TOKENS)
        unknown_names = (model_unknown, *_UNKNOWN_TOKENS)
        self.unknown_id = next((self._tokens[x] for x in unknown_names if x in self._tokens), 0)
        begin, last = (
            [] if token is None else [self._first_id(name, token)]
            for name, token in (("begin_token", begin_token), ("last_token", last_token))
        )
        self._begin_ids, self._last_ids = np.array(begin, np.int32), np.array(last, np.int32)
        if self.end_id == self.pad_id:
            raise self._lacks("end_token", f'"{end_token}" is padding')

    @functools.cached_property
    def unpadded_size(self) -> int:
        return max(self._tokens.values()) + 1

    @functools.cached_property
    def sentinels(self) -> np.ndarray:
        numbered = {}
        for token, number in self._added.items():
            if match := _SENTINEL.fullmatch(token):
                numbered[int(match[1])] = number
        if not numbered:
            masks = [self._added[token] for token in _MASK_TOKENS if token in self._added]
            return np.array(masks[:1], np.int32)
        return np.array([numbered[number] for number in sorted(numbered)], np.int32)

    @functools.cached_property
    def bytes_per_id(self) -> np.ndarray:
        """Bytes of each token; -1 for the end id if a space is put before texts."""
        bytes_per_id = np.array([len(text) for text in self.token_bytes], np.int32)
        bytes_per_id[self.end_id] = -int(_Decoder(self._settings).space_before_text)
        return bytes_per_id

    @functools.cached_property
    def token_bytes(self) -> Sequence[bytes]:
        texts = [b""] * self.size
        decoder = _Decoder(self._settings)
        for token, number in self._tokens.items():
            if number not in (self.pad_id, self.end_id) and token not in self._added:
                texts[number] = decoder.bytes_of(token)
        if self.unknown_id == self.pad_id or self.unknown_id:
            texts[self.unknown_id] = b""
        return texts

    def __repr__(self) -> str:
        return self._describe(
            repr(self._arguments[0]),
            begin_token=self._arguments[1],
            last_token=self._arguments[2],
            size=None if self.size == padded_size(self.unpadded_size) else self.size,
        )

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.concatenate([super().encode(text), self._last_ids])

    def _encode(self, text: str | bytes) -> np.ndarray:
        with _package_errors(*_UNREADABLE):
            encoding = self._tokenizer.encode(_as_text(text), add_special_tokens=False)
        return np.array(encoding.ids, np.int32)

    encode_continuation = _encode

    def special_texts(self, template_tokens: Mapping[str, str]) -> Mapping[str, str]:
        """Returns the template's special tokens, completed by this tokenizer's."""
        begin = "".join(map(self._token_text, self._begin_ids.tolist()))
        return {"bos_token": begin, "eos_token": self._token_text(self.end_id), **template_tokens}

    def encode_spans(
        self, text: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Vocabulary`. As in transformers, ids that overlap a span belong to it."""
        with _package_errors(*_UNREADABLE):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        begins, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
        is_inside = np.zeros(len(begins), bool)
        for begin, end in spans:
            is_inside |= (begins < end) & (ends > begin)
        return np.array(encoding.ids, np.int32), is_inside

    def encode_texts(self, texts: Sequence[bytes]) -> EncodedTexts:
        with _package_errors(*_UNREADABLE):
            encoded = self._tokenizer.encode_batch_fast(
                [_as_text(text) for text in texts], add_special_tokens=False
            )
        begin, last = self._begin_ids.tolist(), self._last_ids.tolist()
        rows = [np.array([*begin, *encoding.ids, *last], np.int32) for encoding in encoded]
        ids = np.concatenate(rows) if rows else np.zeros([0], np.int32)
        return EncodedTexts(ids, np.array(list(map(len, rows)), np.int64))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        tokens = self._tokens_before_end(ids)
        with _package_errors(*_UNREADABLE):
            return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

    def _token_text(self, token: int) -> str:
        return str(self._tokenizer.id_to_token(token) or "") if token >= 0 else ""

    def id_of(self, token: str) -> int:
        """Returns the id of a token, or raises a DataError."""
        return self._first_id("begin_token", token)

    def _first_id(self, argument: str, token: str | None, names: Sequence[str] = ()) -> int:
        """Returns the id of `token`, or of the first token in `names`."""
        for name in names if token is None else [token]:
            if name in self._tokens:
                return self._tokens[name]
        raise self._lacks(
            argument,
            f'it has no token "{token}"{did_you_mean(token, self._added)}'
            if token
            else "it has no known end token",
        )

    def _lacks(self, argument: str, reason: str) -> DataError:
        special = ", ".join(list(self._added)[:8])
        return DataError(
            f"{self._file}: {reason}: set HuggingFaceVocabulary.{argument} to a special token, "
            f"such as {special or 'none'}"
        )


def ids_of_tokens(
    vocabulary: HuggingFaceVocabulary, tokens: Sequence[str | None] = ()
) -> list[int]:
    """Returns the ids of tokens, such as a language's, without None."""
    return [vocabulary.id_of(token) for token in tokens if token is not None]


class _Decoder:
    """Maps tokens to bytes; `space_before_text`: whether texts get a leading space."""

    def __init__(self, settings: dict[str, Any]):
        parts = {part["type"]: part for part in _parts(settings)}
        self._is_byte_level = "ByteLevel" in parts
        self._is_word_piece = (settings.get("model") or {}).get("type") == "WordPiece"
        self.space_before_text = (
            self._is_word_piece
            or parts.get("ByteLevel", {}).get("add_prefix_space", False)
            or "Prepend" in parts
            or parts.get("Metaspace", {}).get("prepend_scheme", "never") != "never"
        )

    def bytes_of(self, token: str) -> bytes:
        if self._is_byte_level:  # each character stands for one byte
            return bytes(BYTE_LEVEL.get(character, ord("?")) for character in token)
        if _BYTE.fullmatch(token):
            return bytes([int(token[1:-1], 16)])
        if self._is_word_piece:  # it drops spaces: one before each word
            if token.startswith(_SUFFIX_MARK):
                return token.removeprefix(_SUFFIX_MARK).encode()
            return f" {token}".encode()
        return token.replace(_SPACE, " ").encode()


def _parts(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the normalizers, pre-tokenizers and decoders, flattened."""
    for stage, members in (
        ("normalizer", "normalizers"),
        ("decoder", "decoders"),
        # Last, since it overrides parts of the same type.
        ("pre_tokenizer", "pretokenizers"),
    ):
        part = settings.get(stage)
        if part is not None:
            yield from part[members] if part["type"] == "Sequence" else [part]


def _read_settings(name: str, content: bytes) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:  # the package ignores some mistakes
        raise DataError(f"{_DAMAGED.format(name)}{error}; {_SAVE_AGAIN}") from error
    return settings


def load_tokenizer(name: str, content: bytes) -> Any:
    tokenizers = import_package("tokenizers", "HuggingFaceVocabulary")
    text = content.decode("utf-8", "replace")
    with _package_errors(_DAMAGED.format(name), _SAVE_AGAIN), quiet_stderr():
        tokenizer = tokenizers.Tokenizer.from_str(text)
        # The file may enable both.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        with contextlib.suppress(Exception):  # it may have no unknown token
            tokenizer.decode(tokenizer.encode(_TRIAL, add_special_tokens=False).ids)
    return tokenizer


def special_tokens_around(tokenizer: Any) -> tuple[list[str], list[str]]:
    """Returns the special tokens that a tokenizer puts before and after a text."""
    tokenizers, text = import_package("tokenizers", "HuggingFaceVocabulary"), _TEXT
    if tokenizer.post_processor is None:
        return [], []
    model = tokenizers.models.WordLevel({text: 0}, unk_token=text)
    with _package_errors(*_UNREADABLE):
        encoding = tokenizers.Tokenizer(model).encode(text)
        tokens = tokenizer.post_processor.process(encoding).tokens
    place = tokens.index(text) if text in tokens else len(tokens)
    return tokens[:place], tokens[place + 1 :]


@contextlib.contextmanager
def _package_errors(what: str, remedy: str) -> Iterator[None]:
    """Turns plain Exceptions and panics, which are not Exceptions, into DataErrors."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        line = " ".join(str(error).split())
        raise DataError(f"{what}{line:.300}; {remedy}") from error


def _as_text(text: str | bytes) -> str:
    return as_bytes(text).decode("utf-8", "replace")
