"""The pieces of a text that is decoded are the whole text, and none is taken back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mtfrun.extras.serving.text_stream import TextStream


def _decode(ids: np.ndarray) -> str:
    return bytes(ids.tolist()).decode("utf-8", "replace")


def _pieces(text: str, stops: Sequence[str] = ()) -> list[str]:
    """Returns the pieces of a text that is decoded byte by byte, until it stops."""
    content, stream, pieces = text.encode(), TextStream(_decode, stops), []
    for index, byte in enumerate(content):
        pieces.append(stream.add([byte], is_last=index == len(content) - 1))
        if stream.is_stopped:
            break
    return pieces


def test_a_character_of_several_bytes_is_one_piece() -> None:
    assert _pieces("aé😀b") == ["a", "", "é", "", "", "", "😀", "b"]


def test_bytes_that_are_no_character_come_with_the_next_one_or_the_end() -> None:
    stream = TextStream(_decode)
    pieces = [stream.add([255], is_last=False), stream.add([97], is_last=False)]
    assert [*pieces, stream.add([195], is_last=True)] == ["", "\ufffda", "\ufffd"]


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two", ["tw"], "one "),
        ("aaab", ["aab"], "a"),
        ("one two", ["two", "ne"], "o"),
        ("one tw", ["two"], "one tw"),
    ],
)
def test_a_text_ends_before_the_first_stop(text: str, stops: list[str], expected: str) -> None:
    pieces = _pieces(text, stops)
    assert "".join(pieces) == expected


def test_the_beginning_of_a_stop_is_held_back_until_it_is_none() -> None:
    assert _pieces("a<e>b", ["<end>"]) == ["a", "", "", "<e>", "b"]
