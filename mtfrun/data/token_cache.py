"""Caches of tokenised texts: files that are mapped into memory.

A cache is a directory with the ids of one split of a task:

  tokens.bin     the ids of all texts, each with its end id: of example 0 feature 0, feature 1, then
                 of example 1, ...; uint16 or int32
  ends.npy       int64 [examples, features] where each text ends in tokens.bin
  manifest.json  counts, hashes, and the sources of the cache, see cache_manifest.py

`tokenization.py` writes it beside its place and renames it, so that a cache is complete or absent.
Plans of rows (plan-*.npz, see packing.py) are added to it later.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtfrun.data.cache_manifest import (
    MANIFEST,
    DamagedCacheError,
    file_sums,
    read_manifest,
    reading,
)

TOKENS = "tokens.bin"
ENDS = "ends.npy"
ID_TYPES = (np.dtype("<u2"), np.dtype("<i4"))
# Bytes of the header of ends.npy, which is written last; room for any number of examples.
HEADER_BYTES = 128
# Lengths of texts that are computed together, to bound the memory.
_LENGTHS_PER_STEP = 1 << 16


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """The ids of one split of a task, mapped into memory; see the files above."""

    directory: Path
    tokens: np.ndarray
    ends: np.ndarray
    manifest: dict[str, Any]
    padding_id: int = 0

    @classmethod
    def open(
        cls, directory: Path, *, origin: Mapping[str, Any] | None = None, anew: bool = False
    ) -> TokenCache:
        """Opens and checks a cache; raises DamagedCacheError for other ids or another origin."""
        check = functools.partial(_check_content, directory)
        manifest = read_manifest(directory, (TOKENS, ENDS), check, origin=origin, anew=anew)
        return cls(directory, *_map_file(directory, manifest), manifest)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in the order of the columns of `ends`."""
        return tuple(self.manifest["features"])

    @property
    def lengths(self) -> np.ndarray:
        """int32 [examples, features] number of ids of every text, its end included."""
        lengths = np.empty(self.ends.size, np.int32)
        ends = self.ends.reshape(-1)
        for first in range(0, ends.size, _LENGTHS_PER_STEP):
            last = min(first + _LENGTHS_PER_STEP, ends.size)
            before = ends[first - 1] if first else 0
            lengths[first:last] = np.diff(ends[first:last], prepend=before)
        return lengths.reshape(self.ends.shape)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the ids and of where texts end."""
        hashes = file_sums(self.manifest)
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
    largest, last = -1, 0
    for first in range(0, tokens.size, _LENGTHS_PER_STEP):
        part = tokens[first : first + _LENGTHS_PER_STEP]
        if part.min() < 0:
            raise DamagedCacheError(directory, f"{TOKENS} has ids below 0")
        largest = max(largest, int(part.max()))
    flat = ends.reshape(-1)
    for first in range(0, flat.size, _LENGTHS_PER_STEP):
        part = flat[first : first + _LENGTHS_PER_STEP]
        if np.diff(part, prepend=last).min() < 1:  # every text has an end
            raise DamagedCacheError(directory, f"{ENDS} does not increase")
        last = int(part[-1])
    counts = {"tokens": tokens.size, "largest_id": largest, "text_bytes": manifest["text_bytes"]}
    if last != tokens.size or {name: manifest[name] for name in counts} != counts:
        raise DamagedCacheError(directory, f"{TOKENS} and {ENDS} do not fit {MANIFEST}")
