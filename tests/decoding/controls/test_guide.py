"""Automata of texts and their guides: outputs are texts of the constraints, and end in time."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from mtfrun.data import IdVocabulary
from mtfrun.decoding import Controls, ForcedWords
from mtfrun.decoding.controls.automaton import all_of, check_size, containing, containing_each
from mtfrun.errors import InputError
from tests.decoding.controls.automata import guide_of, run_automaton, short_texts, write_text


@pytest.mark.parametrize("word", [b"a", b"ab", b"aab", b"abaab", b"aaaa"])
def test_an_automaton_of_a_word_finds_it_where_it_first_occurs(word: bytes) -> None:
    forced, stop = containing(word, ends=False), containing(word, ends=True)
    for text in short_texts():
        place = text.find(word)
        assert forced.may_end[run_automaton(forced, text)[0]] == (place >= 0)
        assert run_automaton(stop, text)[1] == (place + len(word) if place >= 0 else -1)


def test_automata_together_accept_what_all_accept() -> None:
    both = ForcedWords(["ab", "bba"]).automaton()
    for text in short_texts():
        assert both.may_end[run_automaton(both, text)[0]] == (b"ab" in text and b"bba" in text)


def test_forced_words_occur_before_the_end() -> None:
    guide = guide_of(ForcedWords(["abba", "01"]).automaton())
    texts = [write_text(guide, 8, seed)[0] for seed in range(50)]
    assert all(b"abba" in text and b"01" in text for text in texts)
    assert len(set(texts)) > 40


def test_a_stop_text_ends_an_output_though_ids_cross_its_borders() -> None:
    guide = guide_of(containing(b"bb", ends=True), containing(b"a:", ends=True), special=True)
    for seed in range(50):
        text, ended = write_text(guide, 100, seed)
        assert ended
        places = [text.find(stop) for stop in (b"bb", b"a:")]
        last = 3  # the longest id
        assert all(place < 0 or place + 2 > len(text) - last for place in places)


def test_many_stop_texts_take_a_state_for_each_byte_and_no_minutes() -> None:
    words = [f"{number:06d}" for number in range(0, 10**6, 4000)]
    automaton = all_of(containing_each([*words, *words], ends=True))
    assert run_automaton(automaton, b"11204000")[1] == 8 and len(automaton.may_end) < 1800
    with pytest.raises(InputError, match="more than 20,000 states"):
        containing_each(["a" * 100 + word for word in words], ends=True)


def test_a_stop_text_does_not_interrupt_what_a_constraint_needs() -> None:
    guide = guide_of(ForcedWords(["00"]).automaton(), containing(b"b", ends=True))
    for seed in range(20):
        text, _ = write_text(guide, 20, seed)
        assert b"00" in text.partition(b"b")[0]


def test_special_ids_occur_only_where_no_constraint_is() -> None:
    for special in (False, True):
        guide = guide_of(containing(b"ab", ends=True), special=special)
        after = int(guide.after[guide.first, guide.class_of_id[0]])
        assert (guide.distances[after] == 0) == special


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ForcedWords([]), r"ForcedWords\.words is empty"),
        (lambda: ForcedWords(["a", ""]), r"ForcedWords\.words is \['a', ''\]: it must be a list"),
        (lambda: Controls(stop="end"), r"Controls\.stop is 'end': it must be a list of texts"),
        (lambda: Controls(end_ids=[-1]), r"Controls\.end_ids is -1: it must be an integer"),
        (
            lambda: Controls(constraints=cast(Any, ["a*"])),
            r"Controls\.constraints has 'a\*' without",
        ),
        (lambda: guide_of(containing(b"z", ends=False)), "the vocabulary cannot write any text"),
        (lambda: check_size(20_001), "need more than 20,000 states"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make()


def test_the_end_of_texts_need_not_end_outputs() -> None:
    assert Controls(end_ids=[7]).rules(1).length(np.array([5, 1, 7])) == 1
    rules = Controls(end_ids=[7], vocabulary_end=False).rules(1)
    assert rules.length(np.array([5, 1, 7])) == 2
    # Other vocabularies write no text for it.
    assert IdVocabulary(9).decode_output(np.array([5, 1]), continues=True) == "5 1"


def test_an_output_is_cut_at_the_first_stop_text() -> None:
    controls = Controls(stop=["\n", "END"])
    assert controls.cut("one END two\n") == "one "
    assert controls.cut("one two") == "one two"
