"""Tokenisation of a task's texts into its cache."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtfrun.data.cache_directory import EVERY_CACHE, CacheChoice, cache_path, open_or_build, writing
from mtfrun.data.cache_manifest import DamagedCacheError
from mtfrun.data.errors import DataError
from mtfrun.data.task import Task
from mtfrun.data.token_cache import ENDS, HEADER_BYTES, ID_TYPES, TOKENS, TokenCache
from mtfrun.data.vocabularies.vocabulary import NO_END, EncodedTexts, Vocabulary
from mtfrun.display import progress

# Version of the format and of the code that makes it; another one is another cache.
FORMAT = 2
# Texts that are tokenised together: enough to amortise the cost of a call, few enough to bound its
# memory. SentencePiece needs about 20 bytes for a byte of text.
_BYTES_PER_CALL = 1 << 21
_TEXTS_PER_CALL = 1 << 14


def cache_directory(
    task: Task, split: str, features: Sequence[str], cache_dir: str | None = None
) -> Path:
    origin = _origin(task, split, features)
    return cache_path(cache_dir or task.cache_dir, task.title, split, origin)


def open_cache(
    task: Task, split: str, features: Sequence[str], choice: CacheChoice = EVERY_CACHE
) -> TokenCache:
    """Returns the ids of a split of a task, after tokenising it if there is no cache of it.

    Waits while another process builds the same cache. `features` are the stored texts: ["targets"]
    or ["inputs", "targets"]. Raises DataError if the source cannot be read or is empty, or the
    cache cannot be written.
    """
    vocabularies = [task.vocabulary_of(feature) for feature in features]
    for vocabulary in vocabularies:
        if vocabulary.end_id == NO_END:
            raise DataError(
                f"{vocabulary!r} has no id that ends a text, which rows of texts need: name one, "
                "end_id=1"
            )
    size = max(vocabulary.size for vocabulary in vocabularies)

    def opened(directory: Path, origin: Mapping[str, Any]) -> TokenCache:
        cache = TokenCache.open(directory, origin=origin, anew=choice.anew)
        if cache.manifest["largest_id"] >= size:
            raise DamagedCacheError(
                directory, f"it has id {cache.manifest['largest_id']} of {size} ids"
            )
        return dataclasses.replace(cache, padding_id=vocabularies[-1].pad_id)

    return open_or_build(
        functools.partial(cache_path, choice.cache_dir or task.cache_dir, task.title, split),
        lambda: _origin(task, split, features),
        lambda work, directory: _write_texts(work, directory, task, split, features),
        opened,
        overwrite=choice.overwrite,
    )


def _origin(task: Task, split: str, features: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "split": split,
        "features": list(features),
        "source": task.source.fingerprint(split),
        "preprocessors": [repr(preprocessor) for preprocessor in task.preprocessors],
        "vocabularies": [task.vocabulary_of(feature).fingerprint for feature in features],
    }


def _write_texts(
    work: Path, directory: Path, task: Task, split: str, features: Sequence[str]
) -> dict[str, Any]:
    vocabularies = [task.vocabulary_of(feature) for feature in features]
    expected = task.source.expected_bytes(split)
    with (
        progress.Work(f"caching {task.title} {split}", expected, "B") as caching,
        _Writer(work, directory, vocabularies) as writer,
    ):
        for chunk in _chunks(task, split, features):
            writer.write(chunk)
            caching.move_to(writer.text_bytes, f"{writer.examples:,} examples")
        if not writer.tokens:
            raise DataError(
                f'split "{split}" of {task.source} holds nothing: {task.source.why_empty(split)}'
            )
        return {**writer.finish(), "grain": importlib.metadata.version("grain")}


class _Chunk(NamedTuple):
    """Texts that are tokenised together, feature by feature of one example after the other.

    `is_continuation` [examples] says whether an example continues the text of the one before,
    `is_whole` whether the next one does not.
    """

    texts: list[bytes]
    is_whole: list[bool]
    is_continuation: list[bool]
    text_bytes: int


def _chunks(task: Task, split: str, features: Sequence[str]) -> Iterator[_Chunk]:
    """Yields the texts of all examples; empty documents are left out, empty texts of pairs not."""
    texts: list[bytes] = []
    is_whole: list[bool] = []
    is_continuation: list[bool] = []
    text_bytes = 0
    is_within_text = False
    for example in task.examples(split):
        row = [task.text_of(example.fields, feature) for feature in features]
        if not example.is_whole and len(features) > 1:
            raise DataError(
                f"{task.source}: a text that is too long for one example cannot be one of "
                f"{', '.join(features)}: choose documents that are lines or paragraphs"
            )
        row_bytes = sum(map(len, row))
        if not row_bytes and len(features) == 1 and not (is_within_text and example.is_whole):
            continue
        texts += row
        is_whole.append(example.is_whole)
        is_continuation.append(is_within_text)
        is_within_text = not example.is_whole
        text_bytes += row_bytes
        if text_bytes >= _BYTES_PER_CALL or len(texts) >= _TEXTS_PER_CALL:
            yield _Chunk(texts, is_whole, is_continuation, text_bytes)
            texts, is_whole, is_continuation, text_bytes = [], [], [], 0
    if is_within_text:  # the source promised another part; the text ends here
        texts.append(b"")
        is_whole.append(True)
        is_continuation.append(True)
    if texts:
        yield _Chunk(texts, is_whole, is_continuation, text_bytes)


class _Writer:
    def __init__(self, work: Path, directory: Path, vocabularies: Sequence[Vocabulary]):
        self.examples = self.tokens = self.text_bytes = self.largest_id = 0
        self._directory = directory
        self._vocabularies = vocabularies
        largest = max(vocabulary.size for vocabulary in vocabularies)
        self._dtype = ID_TYPES[largest > 1 << 16]
        with writing(directory):
            self._files = {name: (work / name).open("wb") for name in (TOKENS, ENDS)}
            self._files[ENDS].write(bytes(HEADER_BYTES))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk has been reported by `write`
                file.close()

    def write(self, chunk: _Chunk) -> None:
        features = len(self._vocabularies)
        encoded = _encode(chunk, self._vocabularies)
        has_end = np.repeat(chunk.is_whole, features)
        ends = np.cumsum(encoded.lengths + has_end)
        ids = np.empty(int(ends[-1]), self._dtype)
        is_id = np.ones(ids.size, bool)
        is_id[ends[has_end] - 1] = False
        ids[is_id] = encoded.ids
        end_ids = np.array([vocabulary.end_id for vocabulary in self._vocabularies])
        ids[~is_id] = np.tile(end_ids, sum(chunk.is_whole))
        self._append(TOKENS, ids)
        self._append(ENDS, (ends + self.tokens)[has_end].astype("<i8"))
        self.examples += sum(chunk.is_whole)
        self.tokens += ids.size
        self.largest_id = max(self.largest_id, int(ids.max(initial=0)))
        self.text_bytes += chunk.text_bytes

    def finish(self) -> dict[str, Any]:
        shape = (self.examples, len(self._vocabularies))
        with writing(self._directory):
            self._files[ENDS].seek(0)
            header = {"descr": "<i8", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._files[ENDS], header)
            assert self._files[ENDS].tell() == HEADER_BYTES
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        return {
            "examples": self.examples,
            "tokens": self.tokens,
            "text_bytes": self.text_bytes,
            "largest_id": self.largest_id,
            "dtype": self._dtype.str,
        }

    def _append(self, name: str, values: np.ndarray) -> None:
        data = values.data.cast("B") if values.size else b""
        with writing(self._directory):
            self._files[name].write(data)


def _encode(chunk: _Chunk, vocabularies: Sequence[Vocabulary]) -> EncodedTexts:
    features = len(vocabularies)
    texts = chunk.texts
    if any(chunk.is_continuation):  # of running text, which has one feature
        return _in_range(vocabularies[0], _encode_parts(chunk, vocabularies[0]))
    if len({id(vocabulary) for vocabulary in vocabularies}) == 1:
        return _in_range(vocabularies[0], vocabularies[0].encode_texts(texts))
    columns = [
        _in_range(vocabulary, vocabulary.encode_texts(texts[column::features]))
        for column, vocabulary in enumerate(vocabularies)
    ]
    lengths = np.stack([column.lengths for column in columns], axis=1).reshape(-1)
    feature = np.repeat(np.arange(lengths.size) % features, lengths)
    ids = np.empty(feature.size, np.int32)
    for column, values in enumerate(columns):
        ids[feature == column] = values.ids
    return EncodedTexts(ids, lengths)


def _in_range(vocabulary: Vocabulary, encoded: EncodedTexts) -> EncodedTexts:
    if encoded.ids.size and not 0 <= encoded.ids.min() <= encoded.ids.max() < vocabulary.size:
        raise DataError(
            f"{type(vocabulary).__name__} returned ids from {encoded.ids.min()} to "
            f"{encoded.ids.max()}, though it has {vocabulary.size}"
        )
    return encoded


def _encode_parts(chunk: _Chunk, vocabulary: Vocabulary) -> EncodedTexts:
    ids = [
        vocabulary.encode_continuation(text) if is_continuation else vocabulary.encode(text)
        for text, is_continuation in zip(chunk.texts, chunk.is_continuation, strict=True)
    ]
    return EncodedTexts(np.concatenate(ids), np.array([len(part) for part in ids], np.int64))
