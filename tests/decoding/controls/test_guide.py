"""Automata of texts and their guides: outputs are texts of the constraints, and end in time."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from mtfrun.data import IdVocabulary
from mtfrun.decoding import Controls, ForcedWords, JsonSchema, Regex, TokenTexts
from mtfrun.decoding.controls.automaton import (
    Automaton,
    all_of,
    check_size,
    containing,
    containing_each,
)
from mtfrun.decoding.controls.guide import Guide, make_guide
from mtfrun.decoding.controls.pattern_program import NO_STATE
from mtfrun.errors import InputError

END = 1
# Ids that write one or more letters, in several ways; 0 and 1 write nothing.
TEXTS = [b"", b"", *(bytes([x]) for x in b'ab{}":,019 '), b"ab", b"aab", b"ba", b' "', b'":', b"10"]
TOKENS = TokenTexts(TEXTS)


def _run(automaton: Automaton, text: bytes) -> tuple[int, int]:
    """Returns the last state, and the number of bytes when the text had to end, or -1."""
    state, end = 0, -1
    for number, byte in enumerate(text, 1):
        state = int(automaton.after[state, byte])
        if state == NO_STATE:
            return state, end
        if automaton.must_end[state] and end < 0:
            end = number
    return state, end


def _texts(number: int = 200) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [
        bytes(rng.choice(list(b"ab"), size=rng.integers(0, 12)).tolist()) for _ in range(number)
    ]


@pytest.mark.parametrize("word", [b"a", b"ab", b"aab", b"abaab", b"aaaa"])
def test_an_automaton_of_a_word_finds_it_where_it_first_occurs(word: bytes) -> None:
    forced, stop = containing(word, ends=False), containing(word, ends=True)
    for text in _texts():
        place = text.find(word)
        assert forced.may_end[_run(forced, text)[0]] == (place >= 0)
        assert _run(stop, text)[1] == (place + len(word) if place >= 0 else -1)


def test_automata_together_accept_what_all_accept() -> None:
    both = ForcedWords(["ab", "bba"]).automaton()
    for text in _texts():
        assert both.may_end[_run(both, text)[0]] == (b"ab" in text and b"bba" in text)


@pytest.mark.parametrize(
    "pattern",
    [
        *("(ab)*", "a{2,4}b?", "(a|bb)+", "[^a]*", ".*", "a(ab|(([ab])*)*)", "((.)?|(ab)+)"),
        *("([^a].|(ab)?){2}", "(?i:A)b{0}", "(?=ab)[ab]+", "(?!b)[ab]{2,}", "(a?|b){3}|ab{2,}"),
    ],
)
def test_an_automaton_of_a_regular_expression_accepts_what_it_matches(pattern: str) -> None:
    automaton = Regex(pattern).automaton()
    for text in _texts():
        state, _ = _run(automaton, text)
        accepts = state != NO_STATE and bool(automaton.may_end[state])
        assert accepts == bool(re.fullmatch(pattern.encode(), text))


@pytest.mark.parametrize(
    "pattern", ["[^a\n]é?", ".", "[β-ω]+", "(?s:.)", "[\U00010000-\U00010100]"]
)
def test_an_automaton_of_characters_reads_their_bytes(pattern: str) -> None:
    automaton = Regex(pattern).automaton()
    for text in ("a", "b", "bé", "é", "β", "ωα", "\n", "漢", "\ud7ff", "\U00010080", "\U0010ffff"):
        state, _ = _run(automaton, text.encode())
        accepts = state != NO_STATE and bool(automaton.may_end[state])
        assert accepts == bool(re.fullmatch(pattern, text)), text
    for invalid in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        state, _ = _run(automaton, invalid)
        assert state == NO_STATE or not automaton.may_end[state]


def _write(
    guide: Guide, limit: int, seed: int, texts: Sequence[bytes] = TEXTS
) -> tuple[bytes, bool]:
    """Returns a random text that the guide allows, and whether it ended before the limit."""
    rng, state, text = np.random.default_rng(seed), guide.first, b""
    for remaining in range(limit, 0, -1):
        after = guide.distances[guide.after[state][guide.class_of_id]]
        longest = max(remaining, int(guide.distances[state])) - 1
        token = int(rng.choice(np.flatnonzero(after <= longest)))
        if token == END:
            return text, True
        text += texts[token]
        state = int(guide.after[state, guide.class_of_id[token]])
        if guide.ends[state]:
            return text, True
    return text, False


def _guide(*automata: Automaton, tokens: TokenTexts = TOKENS, special: bool = False) -> Guide:
    return make_guide(all_of(automata), tokens, [END], allow_special=special)


def test_outputs_match_a_regular_expression_and_end_with_it() -> None:
    guide = _guide(Regex("(aab|ba)+:[01]{3}").automaton())
    for seed in range(50):
        text, ended = _write(guide, 12, seed)
        assert re.fullmatch(rb"(aab|ba)+:[01]{3}", text)
        # Nothing can follow the third digit: no end id is needed.
        assert ended


def test_a_limit_that_is_too_short_gives_the_shortest_text() -> None:
    guide = _guide(Regex("aabba(a|bbbb)").automaton())
    # aab, ba, a
    assert guide.distances[guide.first] == 3
    assert all(_write(guide, 2, seed)[0] == b"aabba" for seed in range(20))


def test_json_of_a_schema_is_complete_within_the_limit() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["a", "b"],
    }
    texts = [*TEXTS, b"[", b"]"]
    guide = _guide(JsonSchema(schema).automaton(), tokens=TokenTexts(texts))
    for seed in range(50):
        value = json.loads(_write(guide, 30, seed, texts)[0])
        assert set(value) == {"a", "b"}
        assert isinstance(value["a"], int)
        assert isinstance(value["b"], list)


def test_forced_words_occur_before_the_end() -> None:
    guide = _guide(ForcedWords(["abba", "01"]).automaton())
    texts = [_write(guide, 8, seed)[0] for seed in range(50)]
    assert all(b"abba" in text and b"01" in text for text in texts)
    assert len(set(texts)) > 40


def test_a_stop_text_ends_an_output_though_ids_cross_its_borders() -> None:
    guide = _guide(containing(b"bb", ends=True), containing(b"a:", ends=True), special=True)
    for seed in range(50):
        text, ended = _write(guide, 100, seed)
        assert ended
        places = [text.find(stop) for stop in (b"bb", b"a:")]
        last = 3  # the longest id
        assert all(place < 0 or place + 2 > len(text) - last for place in places)


def test_many_stop_texts_take_a_state_for_each_byte_and_no_minutes() -> None:
    words = [f"{number:06d}" for number in range(0, 10**6, 4000)]
    automaton = all_of(containing_each([*words, *words], ends=True))
    assert _run(automaton, b"11204000")[1] == 8 and len(automaton.may_end) < 1800
    with pytest.raises(InputError, match="more than 20,000 states"):
        containing_each(["a" * 100 + word for word in words], ends=True)


def test_a_stop_text_does_not_interrupt_what_a_constraint_needs() -> None:
    guide = _guide(ForcedWords(["00"]).automaton(), containing(b"b", ends=True))
    for seed in range(20):
        text, _ = _write(guide, 20, seed)
        assert b"00" in text.partition(b"b")[0]


def test_special_ids_occur_only_where_no_constraint_is() -> None:
    for special in (False, True):
        guide = _guide(containing(b"ab", ends=True), special=special)
        after = int(guide.after[guide.first, guide.class_of_id[0]])
        assert (guide.distances[after] == 0) == special


def test_the_first_id_of_an_answer_may_lose_its_space() -> None:
    texts = [*TEXTS, b" a"]
    for first_without_space in (False, True):
        tokens = TokenTexts(texts, first_without_space)
        guide = _guide(Regex("a: ?a").automaton(), tokens=tokens)
        allowed = guide.distances[guide.after[guide.first][guide.class_of_id]] < 100
        assert allowed[len(TEXTS)] == first_without_space
        assert allowed[TEXTS.index(b"a")]


def test_a_free_object_of_a_large_vocabulary_takes_seconds() -> None:
    """Each state and id would be 50 million steps."""
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(32, 127, size=6).tolist()) for _ in range(30_000)]
    texts = [b"", b"", *words, *(bytes([x]) for x in range(256))]
    start = time.process_time()
    guide = _guide(JsonSchema({"type": "object"}).automaton(), tokens=TokenTexts(texts))
    assert guide.after.size < 1 << 20
    assert time.process_time() - start < 10


def test_ids_of_the_same_effect_share_a_class() -> None:
    texts = [b"", b"", *(b"%c%c" % (x, y) for x in range(97, 123) for y in range(97, 123))]
    guide = _guide(Regex("[a-z]*").automaton(), tokens=TokenTexts(texts))
    assert guide.after.shape[1] == 3  # special, end, letters


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: Regex("(").automaton(),
            r"decoding\.Regex cannot use '\(': it is not a regular expression",
        ),
        (lambda: Regex("(a)\\1").automaton(), "Group references are not implemented; write it"),
        (lambda: JsonSchema("{").automaton(), r"decoding\.JsonSchema cannot use '\{'"),
        (lambda: ForcedWords([]), r"ForcedWords\.words is empty"),
        (lambda: ForcedWords(["a", ""]), r"ForcedWords\.words is \['a', ''\]: it must be a list"),
        (lambda: Controls(stop="end"), r"Controls\.stop is 'end': it must be a list of texts"),
        (lambda: Controls(end_ids=[-1]), r"Controls\.end_ids is -1: it must be an integer"),
        (
            lambda: Controls(constraints=cast(Any, ["a*"])),
            r"Controls\.constraints has 'a\*', which has no",
        ),
        (lambda: Regex("(a{500}){500}").automaton(), "more than 200,000 parts"),
        (lambda: Regex(".*a.{18}").automaton(), "more than 20,000 states"),
        (lambda: Regex("(" * 4000 + ")" * 4000).automaton(), "nested too deeply"),
        (
            lambda: JsonSchema('{"type": "string", "minLength": 1000000}').automaton(),
            r"decoding\.JsonSchema cannot use .*minLength.* more than",
        ),
        (lambda: _guide(Regex("z").automaton()), "the vocabulary cannot write any text"),
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
