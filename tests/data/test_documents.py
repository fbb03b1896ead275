"""Hashes of documents."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.data.documents import find_hashes, hashes_of
from mtfrun.data.errors import DataError
from tests.data.token_caches import token_cache


def test_a_hash_finds_all_documents_of_its_text() -> None:
    generator = np.random.default_rng(0)
    pairs = [
        [[*generator.integers(3, 6, size).tolist(), 1] for size in generator.integers(0, 3, 2)]
        for _ in range(300)
    ]
    cache = token_cache(pairs, ["inputs", "targets"])
    hashes = hashes_of(cache, np.arange(len(pairs)))
    found = find_hashes(cache, hashes)
    for i, text in enumerate(hashes):
        assert found[text].tolist() == [j for j, pair in enumerate(pairs) if pair == pairs[i]]
    backwards = hashes_of(cache, np.arange(len(pairs))[::-1])
    assert backwards == hashes[::-1]
    assert find_hashes(cache, ["400-0123456789abcdef"])["400-0123456789abcdef"].tolist() == []


@pytest.mark.parametrize("text", ["", "12", "0-0123456789abcdef", "12-0123456789ABCDEF", "a b"])
def test_other_texts_are_not_hashes(text: str) -> None:
    with pytest.raises(DataError, match="is not the hash of a document"):
        find_hashes(token_cache([[[5, 1]]], ["targets"]), [text])
