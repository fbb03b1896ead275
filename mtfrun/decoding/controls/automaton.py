"""Automata over bytes: which texts may be written, where they may end and where they must.

A regular expression, forced words and stop strings become automata, and one automaton is what
several demand together. `guide.py` applies it to ids. All of it is numpy, computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.decoding.controls.pattern_program import MOST_STATES, NO_STATE
from mtfrun.errors import InputError


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


def containing(word: bytes, *, ends: bool) -> Automaton:
    """Returns the automaton of texts that contain a word, or that end with its first occurrence.

    Knuth, Morris and Pratt 1977, https://doi.org/10.1137/0206024: the state is the length of the
    longest beginning of the word with which the text ends.

    ends: whether the text must end where the word is complete, and may do so anywhere.
    """
    size = len(word)
    check_size(size)
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
    """Returns the automaton of the texts that all accept; it must end where one of them must."""
    product = automata[0]
    for other in automata[1:]:
        product = _both(product, other)
    return product


def _both(a: Automaton, b: Automaton) -> Automaton:
    """Returns the product of two automata, of the pairs of states that texts reach."""
    pairs, numbers, rows = [(0, 0)], {(0, 0): 0}, []
    for state_a, state_b in pairs:  # which grows
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
    of_a, of_b = np.array(pairs).T
    return Automaton(
        np.stack(rows),
        a.may_end[of_a] & b.may_end[of_b],
        a.must_end[of_a] | b.must_end[of_b],
    )


def check_size(states: int) -> None:
    """Raises InputError if an automaton has too many states."""
    if states > MOST_STATES:
        raise InputError(
            f"the constraints and stop strings need more than {MOST_STATES:,} states: shorten "
            "them, or bound fewer repetitions, as {0,200} does"
        )
