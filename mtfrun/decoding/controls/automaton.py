"""Automata over bytes: which texts may be written, where they may end and where they must.

Constraints and stop strings become automata; their product accepts the texts that all accept.
`guide.py` applies it to ids. All of it is numpy, computed once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mtfrun.errors import InputError

NO_STATE = -1

# More are too many for the tables of a vocabulary.
_MOST_STATES = 20_000
_MOST_SECS = 10.0


class Automaton(NamedTuple):
    """A deterministic automaton, which begins in state 0.

    Attributes:
      after: int32 [states, 256], the state after a byte; `NO_STATE` where it must not follow.
      may_end: bool [states], whether the text may end there.
      must_end: bool [states], whether it ends there, whatever follows.
    """

    after: np.ndarray
    may_end: np.ndarray
    must_end: np.ndarray


class Constraint(Protocol):
    """Says which texts an output may be."""

    def automaton(self) -> Automaton:
        """Returns the automaton of the bytes of UTF-8."""


@dataclasses.dataclass(frozen=True)
class ForcedWords:
    """Every output contains all of these texts, in any order.

    They may overlap. An output does not end before it has them; near its limit the missing
    texts follow.
    """

    words: Sequence[str]

    def __post_init__(self) -> None:
        check_texts("ForcedWords.words", self.words)
        if not self.words:
            raise InputError('ForcedWords.words is empty: list texts, such as ["thank you"]')

    def automaton(self) -> Automaton:
        return all_of(containing_each(self.words, ends=False))


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raises InputError unless a setting is a list of texts that are not empty."""
    is_list = isinstance(texts, list | tuple)
    if not is_list or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f'{name} is {texts!r:.200}: it must be a list of texts, such as ["\\n"]')


def containing_each(words: Sequence[str], *, ends: bool) -> list[Automaton]:
    """Returns `containing` of the different words; InputError if they are too long together."""
    encoded = [*dict.fromkeys(word.encode() for word in words)]
    check_size(sum(map(len, encoded)))
    return [containing(word, ends=ends) for word in encoded]


def containing(word: bytes, *, ends: bool) -> Automaton:
    """Returns the automaton of texts that contain a word, or that end with its first occurrence.

    Knuth, Morris and Pratt 1977, https://doi.org/10.1137/0206024: the state is the length of the
    longest beginning of the word with which the text ends.

    ends: whether the text must end where the word is complete, and may do so anywhere.
    """
    size = len(word)
    after = np.zeros([size + 1, 256], np.int32)
    after[size] = size
    shorter = 0  # the state after the text without its first byte
    for state, byte in enumerate(word):
        if state:
            after[state] = after[shorter]
            shorter = int(after[shorter, byte])
        after[state, byte] = state + 1
    is_complete = np.arange(size + 1) == size
    if ends:
        return Automaton(after, np.ones([size + 1], bool), is_complete)
    return Automaton(after, is_complete, np.zeros([size + 1], bool))


def all_of(automata: Sequence[Automaton]) -> Automaton:
    """Returns the product of automata: accepts the texts that all accept, ends where any must."""
    end = time.thread_time() + _MOST_SECS
    while len(automata) > 1:  # the number of products of many large automata is small
        pairs = zip(automata[::2], automata[1::2], strict=False)
        single = automata[len(automata) // 2 * 2 :]
        automata = [*(_both(a, b, end) for a, b in pairs), *single]
    return automata[0]


def _both(a: Automaton, b: Automaton, end: float) -> Automaton:
    """Returns the product of two automata, of the pairs of states that texts reach.

    end: when the time of this thread makes it an InputError.
    """
    pairs, numbers, rows = [(0, 0)], {(0, 0): 0}, list[np.ndarray]()
    for state_a, state_b in pairs:  # which grows
        if a.must_end[state_a] or b.must_end[state_b]:  # what follows does not count
            rows.append(np.full([256], len(rows), np.int32))
            continue
        after_a, after_b = a.after[state_a], b.after[state_b]
        row = np.full([256], NO_STATE, np.int32)
        has_both = (after_a >= 0) & (after_b >= 0)
        codes = after_a[has_both].astype(np.int64) * len(b.after) + after_b[has_both]
        targets, inverse = np.unique(codes, return_inverse=True)
        after = []
        for pair in (divmod(int(code), len(b.after)) for code in targets):
            if pair not in numbers:
                numbers[pair] = len(pairs)
                pairs.append(pair)
            after.append(numbers[pair])
        row[has_both] = np.array(after, np.int32)[inverse]
        rows.append(row)
        check_size(len(pairs))
        if time.thread_time() > end:
            need = f"need more than {_MOST_SECS:g} s of a processor"
            raise InputError(f"the constraints and stop strings {need}: leave some out")
    states_a, states_b = np.array(pairs).T
    return Automaton(
        np.stack(rows),
        a.may_end[states_a] & b.may_end[states_b],
        a.must_end[states_a] | b.must_end[states_b],
    )


def check_size(states: int) -> None:
    """Raises InputError if an automaton has too many states."""
    if states > _MOST_STATES:
        need = f"need more than {_MOST_STATES:,} states"
        raise InputError(f"the constraints and stop strings {need}: shorten them")
