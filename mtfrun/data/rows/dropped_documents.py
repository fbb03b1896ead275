"""Documents that training leaves out: their hashes, and rows in which they are padding."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.errors import DataError
from mtfrun.data.rows.batches import Batch, Places, Rows
from mtfrun.data.rows.order import Selection
from mtfrun.files.digests import row_digests

_HASH = re.compile(r"([1-9][0-9]{0,11})-([0-9a-f]{16})")
# Tokens that are read together: they fit into the cache of a processor.
_TOKENS_PER_STEP = 1 << 17
_SEGMENTATION = "_segmentation"


class RowsWithoutDocuments(Rows):
    """Rows in which some documents are padding, without a loss; all others keep their places.

    In rows without segments, such as an objective's, a row that holds a part of such a document is
    padding as a whole.
    """

    def __init__(self, rows: Rows, documents: np.ndarray):
        self._rows, self._dropped = rows, documents
        places = rows.find(documents)
        order = np.argsort(places.rows, kind="stable")
        self._numbers, self._segments = places.rows[order], places.segments[order]

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, selection: Selection) -> Batch:
        batch = self._rows.take(selection)
        first = np.searchsorted(self._numbers, selection.rows, "left")
        stop = np.searchsorted(self._numbers, selection.rows, "right")
        for row in np.flatnonzero(first < stop).tolist():
            self._pad(batch, row, self._segments[first[row] : stop[row]])
        return batch

    def _pad(self, batch: Batch, row: int, segments: np.ndarray) -> None:
        packed = [n.removesuffix(_SEGMENTATION) for n in batch if n.endswith(_SEGMENTATION)]
        is_dropped = {name: np.isin(batch[name + _SEGMENTATION][row], segments) for name in packed}
        for name, values in batch.items():
            feature = next((x for x in packed if name == x or name.startswith(f"{x}_")), None)
            places = slice(None) if feature is None else is_dropped[feature]
            values[row, places] = self._rows.padding_of(name)

    def padding_of(self, feature: str) -> int:
        return self._rows.padding_of(feature)

    def find(self, examples: np.ndarray) -> Places:
        places = self._rows.find(examples)
        stays = ~np.isin(examples[places.examples], self._dropped)
        return Places(*(values[stays] for values in places))


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
    """Returns each hash's documents, int64 [documents], maybe empty; reads no other lengths."""
    starts, lengths = _extents(cache)
    by_length: dict[int, list[str]] = {}
    for text in dict.fromkeys(hashes):
        match = _HASH.fullmatch(text)
        if match is None:
            rule = "such as 12-0123456789abcdef: `mtfrun audit rows` prints them"
            raise DataError(f'"{text[:40]}" is not the hash of a document, {rule}')
        by_length.setdefault(int(match[1]), []).append(text)
    documents_by_hash = {}
    for length, texts in by_length.items():
        (documents,) = np.nonzero(lengths == length)
        digests = _digests(cache, starts[documents], length)
        for text in texts:
            digest = np.uint64(int(text.partition("-")[2], 16))
            documents_by_hash[text] = documents[digests == digest]
    return documents_by_hash


def _extents(cache: TokenCache) -> tuple[np.ndarray, np.ndarray]:
    """Returns where every document begins in the ids of the cache, and its length."""
    stops = np.ascontiguousarray(cache.ends[:, -1])
    lengths = np.diff(stops, prepend=0)
    return stops - lengths, lengths


def _digests(cache: TokenCache, starts: np.ndarray, length: int) -> np.ndarray:
    step = max(1, _TOKENS_PER_STEP // length)
    column = np.arange(length)
    parts = np.split(starts, range(step, len(starts), step))
    tokens = (cache.tokens[part[:, np.newaxis] + column].astype(np.uint64) for part in parts)
    return np.concatenate([row_digests(rows) for rows in tokens])
