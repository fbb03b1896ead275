"""Caches of tokenised texts: files that are mapped into memory.

A cache is a directory with the ids of one split of a task:

  tokens.bin     the ids of all texts, each with its end id: of example 0 feature 0, feature 1, then
                 of example 1, ...; uint16 or int32
  ends.npy       int64 [examples, features] where each text ends in tokens.bin
  manifest.json  counts, hashes, and the sources of the cache, see cache_directory.py

Plans of rows (plan-*.npz, see packing.py) are added to it later.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mtfrun.data.cache.directory import (
    EVERY_CACHE,
    FILES,
    MANIFEST,
    CacheChoice,
    DamagedCacheError,
    cache_path,
    open_or_build,
    read_manifest,
    reading,
)
from mtfrun.data.errors import DataError
from mtfrun.data.sources.source import record_warnings, warn_once
from mtfrun.data.task import Task
from mtfrun.data.vocabularies.vocabulary import NO_END, EncodedTexts, Vocabulary
from mtfrun.display import progress

# Version of the format and of the code that makes it; another one is another cache.
FORMAT = 2
# Texts that are tokenised together: SentencePiece needs about 20 bytes for a byte of text.
_BYTES_PER_CALL = 1 << 21
_TEXTS_PER_CALL = 1 << 14
TOKENS = "tokens.bin"
ENDS = "ends.npy"
# The entry of a manifest with the first warnings about the files, which come at each use.
_WARNINGS, _MOST_WARNINGS = "warnings", 10
ID_TYPES = (np.dtype("<u2"), np.dtype("<i4"))
# Bytes of the header of ends.npy, which is written last; room for any number of examples.
HEADER_BYTES = 128


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """The ids of one split of a task, mapped into memory; see the files above.

    `vocabularies` are the features', or empty if it was opened without its task.
    """

    directory: Path
    tokens: np.ndarray
    ends: np.ndarray
    manifest: dict[str, Any]
    vocabularies: Sequence[Vocabulary] = ()

    @classmethod
    def open(
        cls, directory: Path, *, origin: Mapping[str, Any] | None = None, anew: bool = False
    ) -> TokenCache:
        check = functools.partial(_check_content, directory)
        manifest = read_manifest(directory, (TOKENS, ENDS), check, origin=origin, anew=anew)
        return cls(directory, *_map_file(directory, manifest), manifest)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.manifest["features"])

    @property
    def padding_id(self) -> int:
        """The padding of rows in which all features are joined, and of the targets."""
        return self.vocabularies[-1].pad_id if self.vocabularies else 0

    def padding_of(self, feature: str) -> int:
        pairs = zip(self.features, self.vocabularies, strict=False)
        return next((v.pad_id for name, v in pairs if name == feature), self.padding_id)

    @property
    def lengths(self) -> np.ndarray:
        """int32 [examples, features] number of ids of every text, its end included."""
        ends = self.ends.reshape(-1)
        lengths = np.empty(ends.size, np.int32)
        lengths[:1] = ends[:1]
        np.subtract(ends[1:], ends[:-1], out=lengths[1:])  # in blocks, in little memory
        return lengths.reshape(self.ends.shape)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the ids and of where texts end."""
        return self.fingerprint_of(self.manifest)

    @staticmethod
    def fingerprint_of(manifest: Mapping[str, Any]) -> str:
        hashes = manifest[FILES]
        return hashlib.sha256(f"{hashes[TOKENS]} {hashes[ENDS]}".encode()).hexdigest()


class Cached(NamedTuple):
    """A cache of a task's split.

    `counts` are "examples", "tokens" and "bytes"; `fingerprint` is a hash of the content. `texts`
    are None for a cache of something else, `files` empty for a source that does not read files.
    """

    title: str
    split: str
    counts: Mapping[str, int]
    directory: Path
    fingerprint: str
    texts: TokenCache | None = None
    files: Sequence[str] = ()


def open_cache(
    task: Task, split: str, features: Sequence[str], choice: CacheChoice = EVERY_CACHE
) -> TokenCache:
    """Returns the ids of a split of a task, after tokenising it if there is no cache of it.

    Waits while another process builds the same cache. `features` are the stored texts: ["targets"]
    or ["inputs", "targets"].
    """
    vocabularies = [task.vocabulary_of(feature) for feature in features]
    for vocabulary in vocabularies:
        if vocabulary.end_id == NO_END:
            raise DataError(f"{vocabulary!r} has no id that ends a text: name one, end_id=1")
    size = max(vocabulary.size for vocabulary in vocabularies)

    def open_files(directory: Path, origin: Mapping[str, Any]) -> TokenCache:
        cache = TokenCache.open(directory, origin=origin, anew=choice.anew)
        if (largest := cache.manifest["largest_id"]) >= size:
            raise DamagedCacheError(directory, f"it has id {largest} of {size} ids")
        if not isinstance(cache.manifest.get(_WARNINGS, []), list):
            raise DamagedCacheError(directory, f"{_WARNINGS} is not a list")
        return dataclasses.replace(cache, vocabularies=vocabularies)

    cache = open_or_build(
        functools.partial(cache_path, choice.cache_dir or task.cache_dir, task.title, split),
        lambda: _origin(task, split, features),
        lambda work: _write_texts(work, task, split, features),
        open_files,
        overwrite=choice.overwrite,
    )
    for text in cache.manifest.get(_WARNINGS, ()):
        warn_once(str(text))
    return cache


def _origin(task: Task, split: str, features: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "split": split,
        "features": list(features),
        "source": task.source.fingerprint(split),
        "preprocessors": [repr(preprocessor) for preprocessor in task.preprocessors],
        "vocabularies": [task.vocabulary_of(feature).fingerprint for feature in features],
    }


def _write_texts(work: Path, task: Task, split: str, features: Sequence[str]) -> dict[str, Any]:
    """Writes all examples; empty documents are left out, empty texts of pairs not."""
    vocabularies = [task.vocabulary_of(feature) for feature in features]
    expected = task.source.expected_bytes(split)
    with (
        progress.Work(f"caching {task.title} {split}", expected, "B") as caching,
        (work / TOKENS).open("wb") as tokens,
        (work / ENDS).open("wb") as ends,
        record_warnings() as warnings,
    ):
        writer = _Writer(tokens, ends, vocabularies, caching)
        is_within_text = False
        for fields, is_whole in task.examples(split):
            texts = [task.text_of(fields, feature) for feature in features]
            if not is_whole and len(features) > 1:
                rule = f"a text that is too long for one example cannot be {' or '.join(features)}"
                remedy = "choose documents that are lines or paragraphs"
                raise DataError(f"{task.source}: {rule}: {remedy}")
            if len(features) > 1 or (is_whole and not is_within_text and texts[0]):
                writer.add(texts)
            elif texts[0] or (is_whole and is_within_text):
                writer.add_part(texts[0], is_first=not is_within_text, is_last=is_whole)
            else:
                continue
            is_within_text = not is_whole
        if is_within_text:  # the source promised another part; the text ends here
            writer.add_part(b"", is_first=False, is_last=True)
        writer.flush()
        if not writer.tokens:
            why = task.source.why_empty(split)
            raise DataError(f'split "{split}" of {task.source} holds nothing: {why}')
        counts = {**writer.finish(), "grain": importlib.metadata.version("grain")}
        return {**counts, **({_WARNINGS: warnings[:_MOST_WARNINGS]} if warnings else {})}


class _Writer:
    """Tokenises texts, several together, and writes their ids and ends."""

    def __init__(
        self,
        tokens: BinaryIO,
        ends: BinaryIO,
        vocabularies: Sequence[Vocabulary],
        caching: progress.Work,
    ):
        self.examples = self.tokens = self.text_bytes = self.largest_id = 0
        self._tokens, self._ends = tokens, ends
        self._vocabularies, self._caching = vocabularies, caching
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        largest = max(vocabulary.size for vocabulary in vocabularies)
        self._dtype = ID_TYPES[largest > 1 << 16]
        ends.write(bytes(HEADER_BYTES))

    def add(self, texts: Sequence[bytes]) -> None:
        """Adds an example, a text of every feature."""
        self._waiting += texts
        self._waiting_bytes += sum(map(len, texts))
        if self._waiting_bytes >= _BYTES_PER_CALL or len(self._waiting) >= _TEXTS_PER_CALL:
            self.flush()

    def add_part(self, text: bytes, *, is_first: bool, is_last: bool) -> None:
        """Adds a part of a running text."""
        self.flush()
        (vocabulary,) = self._vocabularies
        ids = vocabulary.encode(text) if is_first else vocabulary.encode_continuation(text)
        self._waiting_bytes = len(text)
        encoded = EncodedTexts(ids, np.array([len(ids)]))
        self.write(_in_range(vocabulary, encoded), with_ends=is_last)

    def flush(self) -> None:
        if self._waiting:
            self.write(_encode(self._waiting, self._vocabularies))

    def write(self, encoded: EncodedTexts, *, with_ends: bool = True) -> None:
        ids, ends = encoded.ids.astype(self._dtype), np.zeros([0], np.int64)
        if with_ends:
            stops = np.cumsum(encoded.lengths)
            ends = stops + np.arange(1, stops.size + 1)
            end_ids = [vocabulary.end_id for vocabulary in self._vocabularies]
            ids = np.insert(ids, stops, np.resize(end_ids, stops.size))
        self._tokens.write(ids.tobytes())
        self._ends.write((ends + self.tokens).astype("<i8").tobytes())
        self.examples += ends.size // len(self._vocabularies)
        self.tokens += ids.size
        self.largest_id = max(self.largest_id, int(ids.max(initial=0)))
        self.text_bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
        self._caching.move_to(self.text_bytes, f"{self.examples:,} examples")

    def finish(self) -> dict[str, Any]:
        shape = (self.examples, len(self._vocabularies))
        self._ends.seek(0)
        header = {"descr": "<i8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._ends, header)
        assert self._ends.tell() == HEADER_BYTES
        for file in (self._tokens, self._ends):
            file.flush()
            os.fsync(file.fileno())
        names = ("examples", "tokens", "text_bytes", "largest_id")
        return {**{name: getattr(self, name) for name in names}, "dtype": self._dtype.str}


def _encode(texts: Sequence[bytes], vocabularies: Sequence[Vocabulary]) -> EncodedTexts:
    features = len(vocabularies)
    if len({id(vocabulary) for vocabulary in vocabularies}) == 1:
        return _in_range(vocabularies[0], vocabularies[0].encode_texts(texts))
    columns = [
        _in_range(vocabulary, vocabulary.encode_texts(texts[column::features]))
        for column, vocabulary in enumerate(vocabularies)
    ]
    lengths = np.stack([column.lengths for column in columns], axis=1).reshape(-1)
    feature = np.repeat(np.arange(lengths.size) % features, lengths)
    merged = np.empty(feature.size, np.int32)
    for column, values in enumerate(columns):
        merged[feature == column] = values.ids
    return EncodedTexts(merged, lengths)


def _in_range(vocabulary: Vocabulary, encoded: EncodedTexts) -> EncodedTexts:
    ids = encoded.ids
    if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary.size:
        who, bounds = type(vocabulary).__name__, f"from {ids.min()} to {ids.max()}"
        raise DataError(f"{who} returned ids {bounds}, though it has {vocabulary.size}")
    return encoded


def _map_file(directory: Path, manifest: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids and the ends of the texts as plain arrays: np.memmap slows every access."""
    with reading(directory):
        shape = (int(manifest["examples"]), len(manifest["features"]))
        dtype = {kind.str: kind for kind in ID_TYPES}[manifest["dtype"]]
        tokens = np.asarray(np.memmap(directory / TOKENS, dtype, "r"))
        ends = np.asarray(np.memmap(directory / ENDS, "<i8", "r", HEADER_BYTES))
        return tokens, ends.reshape(shape)


def _check_content(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raises DamagedCacheError if the files contradict the manifest, even with correct hashes."""
    tokens, ends = _map_file(directory, manifest)
    flat = ends.reshape(-1)
    if tokens.min() < 0:
        raise DamagedCacheError(directory, f"{TOKENS} has ids below 0")
    if flat[0] < 1 or (flat[1:] <= flat[:-1]).any():  # every text has an end
        raise DamagedCacheError(directory, f"{ENDS} does not increase")
    largest, text_bytes = int(tokens.max()), manifest["text_bytes"]
    counts = {"tokens": tokens.size, "largest_id": largest, "text_bytes": text_bytes}
    if flat[-1] != tokens.size or {name: manifest[name] for name in counts} != counts:
        raise DamagedCacheError(directory, f"{TOKENS} and {ENDS} do not fit {MANIFEST}")
