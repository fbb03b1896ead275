"""Training of SentencePiece models."""

from __future__ import annotations

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.sentencepiece_training import (
    SentencePieceTraining,
    sample_of,
    sentences,
    train_sentencepiece,
)
from mtfrun.errors import InputError
from tests.data.vocabularies.small_models import lines


def test_the_same_texts_give_the_same_model() -> None:
    training = SentencePieceTraining(320, max_bytes=9000)  # a sample of 20,000
    first, second = (train_sentencepiece(iter(lines()), training) for _ in range(2))
    assert first.proto == second.proto
    assert 8000 < first.num_bytes <= 9000


def test_a_model_has_the_ids_of_t5() -> None:
    trained = train_sentencepiece(lines(), SentencePieceTraining(340))
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.proto)
    ids = (processor.pad_id(), processor.eos_id(), processor.unk_id(), processor.bos_id())
    assert ids == (0, 1, 2, -1)
    assert processor.get_piece_size() == trained.num_pieces == 340
    characters = sum(len(line.decode()) for line in lines())
    tokens = sum(len(processor.encode(line)) for line in lines())
    assert trained.characters_per_token == characters / tokens
    assert trained.num_bytes == sum(map(len, lines()))


def test_without_byte_fallback_rare_characters_are_unknown() -> None:
    training = SentencePieceTraining(90, with_byte_fallback=False)
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=train_sentencepiece(lines(), training).proto
    )
    assert processor.encode("\u05d0")[-1] == 2


def test_the_normalization_of_t5_joins_lines() -> None:
    training = SentencePieceTraining(340, normalization="nmt_nfkc")
    trained = train_sentencepiece(lines(), training)
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.proto)
    assert processor.decode(processor.encode(" a\n\ndog \uff11")) == "a dog 1"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (10_000, r"too small for 10000 pieces: choose --size=\d+ or less"),
        (20, r"20 pieces are too few for the characters .* 256 are bytes: choose --size=\d+ or"),
    ],
)
def test_an_impossible_size_is_refused_with_a_possible_one(size: int, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        train_sentencepiece(lines(), SentencePieceTraining(size))
    possible = int(str(error.value).split("--size=")[1].split(" ")[0])
    assert train_sentencepiece(lines(), SentencePieceTraining(possible)).num_pieces == possible


@pytest.mark.parametrize("texts", [[], [b""]])
def test_no_text_is_refused(texts: list[bytes]) -> None:
    with pytest.raises(DataError, match="there is no text to train a vocabulary on"):
        train_sentencepiece(texts, SentencePieceTraining(300))


@pytest.mark.parametrize(
    "settings",
    [{"size": 0}, {"max_bytes": 0}, {"character_coverage": 1.1}, {"normalization": "nfd"}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        SentencePieceTraining(**{"size": 300, **settings})  # type: ignore[arg-type]


def test_long_texts_are_cut_behind_lines_and_at_spaces() -> None:
    line = b"x" * 3000 + b"\n"
    assert list(sentences([line * 2])) == [line, line]
    word = b"y" * 3000
    assert list(sentences([word + b" " + word, b"short"])) == [word, word, b"short"]


@given(st.lists(st.integers(0, 5000).flatmap(lambda n: st.sampled_from(["é" * n, "a b" * n]))))
def test_sentences_are_short_and_keep_all_but_spaces(texts: list[str]) -> None:
    data = [text.encode() for text in texts]
    parts = list(sentences(data))
    assert all(0 < len(part) <= 4096 for part in parts)
    assert b"".join(parts).replace(b" ", b"") == b"".join(data).replace(b" ", b"")
    for part in parts:
        part.decode()  # no character is cut


def test_a_sample_is_random_and_in_order() -> None:
    parts = [b"%04d" % number for number in range(1000)]
    sample = sample_of(iter(parts), 400)
    assert len(sample) == 100
    assert sample == sorted(sample)
    # The mean of 100 of 1,000 numbers has a standard deviation of 27.
    assert abs(np.mean([int(part) for part in sample]) - 500) < 100
    assert sample_of(iter(parts), 4000) == parts
