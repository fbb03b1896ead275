"""Searches a token cache for a text, in about the time of reading its ids.

An id stands for bytes, see `Vocabulary.token_bytes`, and the text is searched in these bytes,
however they are divided into ids. Bytes are only compared around anchors: the few ids that may
contain the rarest byte of the text.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.errors import DataError
from mtfrun.data.rows.batches import indices_within
from mtfrun.data.vocabularies.vocabulary import Vocabulary

# Tokens that are searched together: their arrays fit into the cache of a processor.
_TOKENS_PER_STEP = 1 << 17
# The most bytes of a text among which the rarest is chosen.
_MOST_TO_CHOOSE = 256
# Up to this number, ids are faster to compare than to look up.
_FEW = 6
# The bytes for ids without a text, and for the id that ends a text; UTF-8 has neither.
_SPECIAL, _END = b"\xfe", b"\xff"


def find_text(
    cache: TokenCache, text: str, vocabularies: Mapping[str, Vocabulary]
) -> Iterator[int]:
    """Yields the documents with a feature that contains the text, in ascending order.

    The text is searched as `vocabularies`, by feature, encode it: they may normalise it, or lack
    ids for parts of it. Spaces at its ends are ignored. DataError if no feature can contain it.
    """
    columns: dict[tuple[bytes, Vocabulary], set[int]] = {}
    error = DataError("nothing of the text is in the vocabulary")
    for column, (name, writer) in enumerate(zip(cache.features, cache.vocabularies, strict=True)):
        try:
            pattern = _pattern_of(vocabularies[name], text)
        except DataError as refused:  # as a vocabulary of labels does
            error = refused
            continue
        if pattern:
            columns.setdefault((pattern, writer), set()).add(column)
    if not columns:
        raise error
    documents = heapq.merge(
        *(_documents(cache, writer, pattern, x) for (pattern, writer), x in columns.items())
    )
    yield from (document for document, _ in itertools.groupby(documents))


def _pattern_of(vocabulary: Vocabulary, text: str) -> bytes:
    written = _Writing(vocabulary, vocabulary.size).texts
    ids = vocabulary.encode(text).tolist()
    return b"".join(written[i] for i in ids).strip(b" " + _SPECIAL)


class _Writing:
    """The bytes of every id, at least one each."""

    def __init__(self, vocabulary: Vocabulary, size: int):
        self.texts = [text or _SPECIAL for text in vocabulary.token_bytes]
        self.texts += [_SPECIAL] * (size - len(self.texts))
        self.texts[vocabulary.end_id] = _END
        self._sizes = np.array(list(map(len, self.texts)))
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._bytes = np.frombuffer(b"".join(self.texts), np.uint8)

    def write(self, ids: np.ndarray) -> tuple[bytes, Sequence[int] | np.ndarray]:
        """Returns the bytes of ids, and where the bytes of each id begin."""
        ids = ids.astype(np.intp)  # the fastest index
        if self._bytes.size == self._sizes.size:
            return self._bytes[ids].tobytes(), range(ids.size)
        sizes = self._sizes[ids]
        places = np.repeat(self._starts[ids], sizes) + indices_within(sizes)
        return self._bytes[places].tobytes(), np.cumsum(sizes) - sizes


def _documents(
    cache: TokenCache, vocabulary: Vocabulary, pattern: bytes, columns: set[int]
) -> Iterator[int]:
    ends = cache.ends.reshape(-1)
    writing = _Writing(vocabulary, max(v.size for v in cache.vocabularies))
    for place in _places(cache.tokens, writing, pattern):
        document, column = divmod(int(np.searchsorted(ends, place, "right")), len(cache.features))
        if column in columns:  # elsewhere the vocabulary is another one
            yield document


def _places(tokens: np.ndarray, writing: _Writing, pattern: bytes) -> Iterator[int]:
    """Yields the index of each id in which the pattern begins, ascending."""
    reach = len(pattern)  # the most ids that it can have
    sample = tokens[:_TOKENS_PER_STEP]
    is_anchor, share = _anchors(sample, writing.texts, pattern)
    is_sparse = 2 * reach * share < 1 / 2  # else nearly everything is around an anchor
    for begin in range(0, tokens.size, _TOKENS_PER_STEP):
        stop = min(begin + _TOKENS_PER_STEP, tokens.size)
        ids = tokens[begin : stop + reach]
        places: Sequence[int] | np.ndarray = range(begin, begin + ids.size)
        if is_sparse:
            anchors = begin + np.flatnonzero(_select(ids, is_anchor))
            places = _neighbours(anchors, reach, tokens.size)
            ids = tokens[places]
        data, starts = writing.write(ids)
        at = data.find(pattern)
        while at >= 0:
            first, last = (bisect.bisect_right(starts, x) - 1 for x in (at, at + reach - 1))
            place = int(places[first])
            if begin <= place < stop and places[last] - place == last - first:
                yield place
            at = data.find(pattern, at + 1)


def _select(ids: np.ndarray, is_anchor: np.ndarray) -> np.ndarray:
    """Returns which ids are anchors, bool [ids]."""
    numbers = np.flatnonzero(is_anchor)
    if len(numbers) > _FEW:
        table: np.ndarray = is_anchor[ids.astype(np.intp)]
        return table
    selected = np.zeros(ids.size, bool)
    for number in numbers.astype(ids.dtype):
        selected |= ids == number
    return selected


def _neighbours(places: np.ndarray, reach: int, size: int) -> np.ndarray:
    """Returns all indices at most `reach` away from a place, ascending, each once."""
    if not places.size:
        return places
    (first,) = np.nonzero(np.diff(places, prepend=-2 * reach - 2) > 2 * reach + 1)
    begins = np.maximum(places[first] - reach, 0)
    stops = np.minimum(places[np.append(first[1:], places.size) - 1] + reach + 1, size)
    counts = stops - begins
    neighbours: np.ndarray = np.repeat(begins, counts) + indices_within(counts)
    return neighbours


def _anchors(
    sample: np.ndarray, texts: Sequence[bytes], pattern: bytes
) -> tuple[np.ndarray, float]:
    """Returns the ids that may hold the pattern's rarest byte, and their share of a sample."""
    middle = len(pattern) // 2
    part = pattern[max(0, middle - _MOST_TO_CHOOSE // 2) :][:_MOST_TO_CHOOSE]
    counts = np.bincount(sample, minlength=len(texts))
    covers = [
        (number, first, stop)
        for number, text in enumerate(texts)
        for first, stop in _spans(text, part)
    ]
    often = np.zeros(len(part) + 1, np.int64)
    for number, first, stop in covers:
        often[first] += counts[number]
        often[stop] -= counts[number]
    rarest = int(np.argmin(np.cumsum(often)[:-1]))
    is_anchor = np.zeros(len(texts), bool)
    is_anchor[[n for n, first, stop in covers if first <= rarest < stop]] = True
    return is_anchor, float(counts[is_anchor].sum() / sample.size)


def _spans(text: bytes, part: bytes) -> Iterator[tuple[int, int]]:
    """Yields the ranges of a part that an id with this text may cover."""
    at = part.find(text)
    while at >= 0:
        yield at, at + len(text)
        at = part.find(text, at + 1)
    for size in range(1, min(len(text), len(part) + 1)):
        if part.startswith(text[-size:]):
            yield 0, size
        if part.endswith(text[:size]):
            yield len(part) - size, len(part)
    if len(text) > len(part) and part in text:
        yield 0, len(part)
