"""The texts of ids, as rows show them."""

from __future__ import annotations

from mtfrun.data import ByteVocabulary
from mtfrun.tools.data_viewer.row_view import token_texts

VOCABULARY = ByteVocabulary()


def test_the_texts_of_ids_joined_are_the_text() -> None:
    text = "a né 語 \U0001f600\n"
    texts = token_texts(VOCABULARY, VOCABULARY.encode(text))
    assert "".join(texts) == text and len(texts) == len(text.encode())


def test_ids_that_are_no_character_are_named_and_the_following_ones_decoded() -> None:
    half = VOCABULARY.encode("é")[:1].tolist()
    first, second = VOCABULARY.sentinels[:2].tolist()
    ids = [
        first,
        *VOCABULARY.encode("ab").tolist(),
        second,
        first,
        *half,
        VOCABULARY.end_id,
        0,
        300,
    ]
    assert token_texts(VOCABULARY, ids) == [
        "<extra_id_0>",
        "a",
        "b",
        "<extra_id_1>",
        "<extra_id_0>",
        # A byte that begins a character is a sentinel of ByT5 as well.
        f"<extra_id_{VOCABULARY.sentinels.tolist().index(half[0])}>",
        "<end>",
        "<pad>",
        "<300>",
    ]


def test_a_continuation_byte_that_is_no_sentinel_is_a_replacement_character() -> None:
    id_of_0x80 = 0x80 + 3
    assert token_texts(VOCABULARY, [id_of_0x80, *VOCABULARY.encode("a")]) == ["\ufffd", "a"]
    assert token_texts(VOCABULARY, []) == []
