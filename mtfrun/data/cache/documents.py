"""Documents of a token cache by their hashes, which name them without their text."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.errors import DataError
from mtfrun.files.digests import row_digests

_HASH = re.compile(r"([1-9][0-9]{0,11})-([0-9a-f]{16})")
# Tokens that are read together: they fit into the cache of a processor.
_TOKENS_PER_STEP = 1 << 17


def hashes_of(cache: TokenCache, documents: np.ndarray) -> list[str]:
    """Returns the hash of each document, such as "12-0123456789abcdef".

    It has the number of the document's ids and a digest of them, ends included, of all features:
    documents of the same text have the same hash, as long as the vocabulary is the same.
    """
    starts, lengths = _extents(cache)
    hashes = [""] * len(documents)
    for length in np.unique(lengths[documents]).tolist():
        (places,) = np.nonzero(lengths[documents] == length)
        digests = _digests(cache, starts[documents[places]], length)
        for place, digest in zip(places.tolist(), digests.tolist(), strict=True):
            hashes[place] = f"{length}-{digest:016x}"
    return hashes


def find_hashes(cache: TokenCache, hashes: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns the documents of each hash, maybe none, int64 [documents]; reads no other lengths.

    DataError for anything but hashes.
    """
    starts, lengths = _extents(cache)
    by_length: dict[int, list[str]] = {}
    for text in dict.fromkeys(hashes):
        match = _HASH.fullmatch(text)
        if match is None:
            raise DataError(
                f'"{text[:40]}" is not the hash of a document, such as 12-0123456789abcdef: '
                "`mtfrun data where` prints them"
            )
        by_length.setdefault(int(match[1]), []).append(text)
    found = {}
    for length, texts in by_length.items():
        (documents,) = np.nonzero(lengths == length)
        digests = _digests(cache, starts[documents], length)
        for text in texts:
            digest = np.uint64(int(text.partition("-")[2], 16))
            found[text] = documents[digests == digest]
    return found


def _extents(cache: TokenCache) -> tuple[np.ndarray, np.ndarray]:
    """Returns where every document begins in the ids of the cache, and its length."""
    stops = np.ascontiguousarray(cache.ends[:, -1])
    lengths = np.diff(stops, prepend=0)
    return stops - lengths, lengths


def _digests(cache: TokenCache, starts: np.ndarray, length: int) -> np.ndarray:
    """Returns a digest of each document of a length, uint64 [documents]."""
    step = max(1, _TOKENS_PER_STEP // length)
    column = np.arange(length)
    return np.concatenate(
        [
            row_digests(cache.tokens[some[:, np.newaxis] + column].astype(np.uint64))
            for some in np.split(starts, range(step, len(starts), step))
        ]
    )
