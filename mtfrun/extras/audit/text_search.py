"""Search for a text in a token cache.

Ids write bytes, see `Vocabulary.token_bytes`, and the text is searched in what they write, however
it is divided into ids there.
"""

from __future__ import annotations

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
    written = _texts_of(vocabulary, vocabulary.size)
    ids = vocabulary.encode(text).tolist()
    return b"".join(written[i] for i in ids).strip(b" " + _SPECIAL)


def _texts_of(vocabulary: Vocabulary, size: int) -> Sequence[bytes]:
    """Returns the bytes that every id writes, at least one."""
    texts = [text or _SPECIAL for text in vocabulary.token_bytes]
    texts += [_SPECIAL] * (size - len(texts))
    texts[vocabulary.end_id] = _END
    return texts


def _documents(
    cache: TokenCache, vocabulary: Vocabulary, pattern: bytes, columns: set[int]
) -> Iterator[int]:
    ends = cache.ends.reshape(-1)
    texts = _texts_of(vocabulary, max(v.size for v in cache.vocabularies))
    for place in _places(cache.tokens, texts, pattern):
        document, column = divmod(int(np.searchsorted(ends, place, "right")), len(cache.features))
        if column in columns:  # ids of another vocabulary write something else
            yield document


def _places(tokens: np.ndarray, texts: Sequence[bytes], pattern: bytes) -> Iterator[int]:
    """Yields the index of each id with which the pattern begins, ascending."""
    written = np.frombuffer(b"".join(texts), np.uint8)
    size_of_id = np.array(list(map(len, texts)))
    start_of_id = np.cumsum(size_of_id) - size_of_id
    for begin in range(0, tokens.size, _TOKENS_PER_STEP):
        # With the ids, at most one a byte, that a pattern at the end of the part reaches.
        ids = tokens[begin : begin + _TOKENS_PER_STEP + len(pattern)].astype(np.intp)
        if written.size == size_of_id.size:  # a byte each
            data, stops = written[ids].tobytes(), np.arange(1, ids.size + 1)
        else:
            sizes = size_of_id[ids]
            data = written[np.repeat(start_of_id[ids], sizes) + indices_within(sizes)].tobytes()
            stops = np.cumsum(sizes)
        at = data.find(pattern)
        while at >= 0:
            place = int(np.searchsorted(stops, at, "right"))
            if place >= _TOKENS_PER_STEP:
                break
            yield begin + place
            at = data.find(pattern, at + 1)
