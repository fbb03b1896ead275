"""Search for texts in token caches."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtfrun import data
from mtfrun.data.cache.tokens import TokenCache, open_cache
from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.byte_vocabulary import ByteVocabulary
from mtfrun.data.vocabularies.sentencepiece_training import (
    SentencePieceTraining,
    train_sentencepiece,
)
from mtfrun.extras.audit import text_search
from mtfrun.extras.audit.text_search import find_text
from tests.data.in_memory import InMemory, texts_task, token_cache

PIECES = ["a", "b", "c", "ab", "bca", "cc", "abcab", "ca"]
FIRST, END = 3, 1


class _Pieces(ByteVocabulary):
    """A vocabulary in which a text can be written in several ways."""

    @property
    def token_bytes(self) -> Sequence[bytes]:
        texts = [b""] * self.size
        texts[FIRST : FIRST + len(PIECES)] = [piece.encode() for piece in PIECES]
        return texts

    def encode(self, text: str | bytes) -> np.ndarray:
        return super().encode(text) - ord("a")


def _cache(texts: Sequence[Sequence[int]], features: Sequence[str] = ("targets",)) -> TokenCache:
    """Returns a cache of examples that are texts of ids of `_Pieces`."""
    ids = [[*(FIRST + piece for piece in text), END] for text in texts]
    number = len(features)
    examples = [ids[i : i + number] for i in range(0, len(ids), number)]
    return dataclasses.replace(token_cache(examples, features), vocabularies=[_Pieces()] * number)


def _find(cache: TokenCache, text: str) -> list[int]:
    return list(find_text(cache, text, dict.fromkeys(cache.features, _Pieces())))


_TEXTS = st.lists(st.lists(st.integers(0, len(PIECES) - 1), max_size=9), min_size=1, max_size=12)


@given(_TEXTS, st.text("abc", min_size=1, max_size=7), st.sampled_from([3, 8, 1 << 20]))
def test_documents_contain_a_text_however_it_is_divided_into_ids(
    texts: list[list[int]], text: str, tokens_per_step: int
) -> None:
    expected = [i for i, ids in enumerate(texts) if text in "".join(PIECES[piece] for piece in ids)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_search, "_TOKENS_PER_STEP", tokens_per_step)
        assert _find(_cache(texts), text) == expected


@given(_TEXTS, st.text("abc", min_size=1, max_size=4))
def test_a_text_of_pairs_is_in_one_of_the_features(texts: list[list[int]], text: str) -> None:
    texts += [[]] * (len(texts) % 2)
    is_in = [text in "".join(PIECES[piece] for piece in ids) for ids in texts]
    expected = [i for i in range(len(texts) // 2) if is_in[2 * i] or is_in[2 * i + 1]]
    assert _find(_cache(texts, ["inputs", "targets"]), text) == expected


def test_texts_are_searched_as_the_vocabulary_writes_them(tmp_path: pathlib.Path) -> None:
    lines = [b"the %d quick foxes, and one dog number %d" % (i, i % 7) for i in range(90)]
    file = tmp_path / "small.model"
    training = SentencePieceTraining(40, with_byte_fallback=False, normalization="nmt_nfkc")
    file.write_bytes(train_sentencepiece(lines, training).proto)
    vocabulary = data.SentencePieceVocabulary(str(file), extra_ids=0)
    source = InMemory(tuple((line,) for line in lines), ("text",))
    task = data.Task(source, vocabulary, cache_dir=str(tmp_path / "cache"))
    cache = open_cache(task, "train", ["targets"])
    for text, expected in (
        ("the  5 quick", [5]),  # the model writes one space
        ("umber 3", [i for i in range(90) if i % 7 == 3]),
        ("\uff11\uff17 qu", [17]),  # full width digits, which NFKC replaces
        ("7 quick", [i for i in range(90) if i % 10 == 7]),
        ("cats", []),
    ):
        assert list(find_text(cache, text, {"targets": vocabulary})) == expected, text


def test_a_text_without_ids_is_refused() -> None:
    cache = open_cache(texts_task([b"a text"]), "train", ["targets"])
    with pytest.raises(DataError, match="nothing of the text is in the vocabulary"):
        list(find_text(cache, "  ", {"targets": ByteVocabulary()}))


def test_a_rare_text_is_found_among_many_ids() -> None:
    generator = np.random.default_rng(0)
    texts = [[0, 1, 3] * 20] * 2000
    for i in (5, 1700):
        texts[i] = [*generator.integers(0, 2, 30).tolist(), 2, 5, 1, 7, *texts[i]]
    assert _find(_cache(texts), "cccbca") == [5, 1700]
