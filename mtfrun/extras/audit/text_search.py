"""Search for a text in a token cache.

Ids write bytes, see `Vocabulary.token_bytes`, and the text is searched in what they write, however
it is divided into ids there.
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

# Tokens that are searched together: what is computed of them fits into the cache of a processor.
_TOKENS_PER_STEP = 1 << 17
# What ids without a text write here, and the id that ends a text: bytes that UTF-8 does not have.
_SPECIAL, _END = b"\xfe", b"\xff"


def find_text(
    cache: TokenCache, text: str, vocabularies: Mapping[str, Vocabulary]
) -> Iterator[int]:
    """Yields the documents of which a feature's text contains this one, in ascending order.

    It is searched as `vocabularies`, by feature, write it: those that normalise texts, or have no
    ids for parts of one, do so here too. Spaces at its ends do not count. DataError for a text that
    no feature can have.
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
    found = heapq.merge(
        *(_documents(cache, writer, pattern, of) for (pattern, writer), of in columns.items())
    )
    yield from (document for document, _ in itertools.groupby(found))


def _pattern_of(vocabulary: Vocabulary, text: str) -> bytes:
    written = _Writing(vocabulary, vocabulary.size).texts
    ids = vocabulary.encode(text).tolist()
    return b"".join(written[i] for i in ids).strip(b" " + _SPECIAL)


class _Writing:
    """The bytes that every id writes, at least one."""

    def __init__(self, vocabulary: Vocabulary, size: int):
        self.texts = [text or _SPECIAL for text in vocabulary.token_bytes]
        self.texts += [_SPECIAL] * (size - len(self.texts))
        self.texts[vocabulary.end_id] = _END
        self._sizes = np.array(list(map(len, self.texts)))
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._bytes = np.frombuffer(b"".join(self.texts), np.uint8)

    def write(self, ids: np.ndarray) -> tuple[bytes, Sequence[int] | np.ndarray]:
        """Returns the bytes of ids, and where each one's begin."""
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
        if column in columns:  # ids of another vocabulary write something else
            yield document


def _places(tokens: np.ndarray, writing: _Writing, pattern: bytes) -> Iterator[int]:
    for begin in range(0, tokens.size, _TOKENS_PER_STEP):
        # At most one id for each byte of the pattern writes it.
        data, starts = writing.write(tokens[begin : begin + _TOKENS_PER_STEP + len(pattern)])
        at = data.find(pattern)
        while at >= 0:
            first = bisect.bisect_right(starts, at) - 1
            if first < _TOKENS_PER_STEP:
                yield begin + first
            at = data.find(pattern, at + 1)
