"""Ids that write letters, and random texts of automata and guides, for tests of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.decoding import Automaton, Guide, TokenTexts
from mtfrun.decoding.controls.automaton import NO_STATE, all_of
from mtfrun.decoding.controls.guide import make_guide

END = 1
# Ids that write one or more letters, in several ways; 0 and 1 write nothing.
TEXTS = [b"", b"", *(bytes([x]) for x in b'ab{}":,019 '), b"ab", b"aab", b"ba", b' "', b'":', b"10"]
TOKENS = TokenTexts(TEXTS)


def run_automaton(automaton: Automaton, text: bytes) -> tuple[int, int]:
    """Returns the last state, and the number of bytes when the text had to end, or -1."""
    state, end = 0, -1
    for number, byte in enumerate(text, 1):
        state = int(automaton.after[state, byte])
        if state == NO_STATE:
            return state, end
        if automaton.must_end[state] and end < 0:
            end = number
    return state, end


def short_texts(number: int = 200) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [
        bytes(rng.choice(list(b"ab"), size=rng.integers(0, 12)).tolist()) for _ in range(number)
    ]


def write_text(
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


def guide_of(*automata: Automaton, tokens: TokenTexts = TOKENS, special: bool = False) -> Guide:
    return make_guide(all_of(automata), tokens, [END], allow_special=special)
