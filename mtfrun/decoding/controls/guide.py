"""A guide: an automaton over the ids of a vocabulary, which every row walks while it is decoded.

It masks ids after which the text could not be completed any more, within the row's limit where
that is long enough, and says where a text must end.

Dimensions:
  guide_states: of the automaton, the last of which is reached by what must not be written.
  guide_classes: ids that lead from every state to the same one; far fewer than there are ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.automaton import Automaton
from mtfrun.errors import InputError

# More ids than an output can have.
_FAR = 1 << 30
# Far below `FORBIDDEN`: where processors forbid all that a guide allows, the guide holds.
_IMPOSSIBLE = -1e30
# Entries of a table.
_LARGEST = 1 << 26
# Entries that are computed together.
_CHUNK = 1 << 22


class TokenTexts(NamedTuple):
    """What the ids of a vocabulary write.

    Attributes:
      texts: the bytes of each id within a text; b"" for special ids.
      first_without_space: whether the first id of an output loses a space at its beginning.
    """

    texts: Sequence[bytes]
    first_without_space: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Guide:
    """The tables of an automaton over ids.

    Attributes:
      first: the state of an empty text.
      after: int32 [states, classes], the state after an id.
      class_of_id: int32 [vocab].
      distances: int32 [states], the least number of ids after which the text may end, 0 where it
        may; `_FAR` where it never may.
      ends: bool [states], whether an output is complete and nothing may follow.
    """

    first: int
    after: np.ndarray
    class_of_id: np.ndarray
    distances: np.ndarray
    ends: np.ndarray

    def mask(self, logits: mtf.Tensor, state: mtf.Tensor, remaining: mtf.Tensor) -> mtf.Tensor:
        """Returns logits {rows, vocab} without the ids that the text must not continue with.

        state: {rows} int32; remaining: int32, rows of some of these dimensions, the number of ids
        that are left, at least 1.
        """
        mesh, (states, classes) = logits.mesh, self._dims
        (vocab,) = logits.shape - state.shape
        distances = mtf.constant(mesh, self.distances, [states], tf.int32)
        after = mtf.constant(mesh, self.distances[self.after], [states, classes], tf.int32)
        ids = mtf.constant(mesh, self.class_of_id, [vocab], tf.int32)
        # Where the limit is too short for any text, the shortest one is written.
        longest = mtf.maximum(remaining, mtf.gather(distances, state, states)) - 1
        allowed = mtf.less_equal(mtf.gather(after, state, states), longest)
        allowed = mtf.gather(
            mtf.to_int32(allowed), ids, classes, output_shape=[*state.shape, vocab]
        )
        return mtf.where(mtf.equal(allowed, 1), logits, _IMPOSSIBLE, logits.shape)

    def advance(self, state: mtf.Tensor, token: mtf.Tensor) -> mtf.Tensor:
        """Returns the states {rows} after ids {rows}."""
        mesh, (states, classes) = state.mesh, self._dims
        vocab = mtf.Dimension("guide_ids", len(self.class_of_id))
        class_of_id = mtf.constant(mesh, self.class_of_id, [vocab], tf.int32)
        column = mtf.gather(class_of_id, token, vocab)
        after = mtf.constant(mesh, self.after, [states, classes], tf.int32)
        return mtf.gather(mtf.gather(after, state, states), column, classes)

    def has_ended(self, state: mtf.Tensor) -> mtf.Tensor:
        states, _ = self._dims
        ends = mtf.constant(state.mesh, self.ends.astype(np.int32), [states], tf.int32)
        return mtf.equal(mtf.gather(ends, state, states), 1)

    def length(self, ids: np.ndarray) -> int | None:
        """Returns the number of ids after which a text is complete; None if none are."""
        state = self.first
        for number, token in enumerate(ids, 1):
            state = int(self.after[state, self.class_of_id[token]])
            if self.ends[state]:
                return number
        return None

    @property
    def _dims(self) -> tuple[mtf.Dimension, mtf.Dimension]:
        states, classes = self.after.shape
        return mtf.Dimension("guide_states", states), mtf.Dimension("guide_classes", classes)


def make_guide(
    automaton: Automaton, tokens: TokenTexts, end_ids: Sequence[int], *, allow_special: bool
) -> Guide:
    """Returns the guide of a vocabulary; InputError if it cannot write any text of the automaton.

    allow_special: whether ids without text may occur anywhere, besides the ends.
    """
    size = len(automaton.may_end)
    dead = size + 1  # after a copy of the first state, which is not reached again
    may_end = np.append(automaton.may_end, [automaton.may_end[0], False])
    must_end = np.append(automaton.must_end, [automaton.must_end[0], False])
    after = _whole(automaton, dead)
    columns: dict[bytes, int] = {}
    class_of_id = np.zeros([len(tokens.texts)], np.int32)
    chunk = -(-_CHUNK // dead)
    factors = np.random.default_rng(0).integers(1 << 63, size=[dead + 1, 1], dtype=np.uint64)
    for begin in range(0, len(tokens.texts), chunk):
        texts = tokens.texts[begin : begin + chunk]
        table = _walk(after, texts)
        table[size] = table[0]
        if tokens.first_without_space:
            stripped = [text.removeprefix(b" ") for text in texts]
            table[size] = _walk(after, stripped, start=0)
        is_special = np.array([not text for text in texts])
        table[:, is_special] = np.arange(dead + 1)[:, np.newaxis] if allow_special else dead
        for end_id in end_ids:
            if 0 <= end_id - begin < len(texts):
                table[:, end_id - begin] = np.where(may_end, np.arange(dead + 1), dead)
        # Equal columns, by a hash of 64 bits: several times as fast as a comparison.
        hashes = (factors * table.astype(np.uint64)).sum(axis=0)
        _, first_ids, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        numbers = [columns.setdefault(table[:, i].tobytes(), len(columns)) for i in first_ids]
        class_of_id[begin : begin + len(texts)] = np.array(numbers, np.int32)[inverse]
        if (dead + 1) * len(columns) > _LARGEST:
            raise InputError(
                f"the constraints and stop strings, {size:,} states, need a table of more than "
                f"{_LARGEST:,} entries for the vocabulary: shorten them"
            )
    by_class = np.stack([np.frombuffer(column, np.int32) for column in columns], axis=1)
    distances = _distances(by_class, may_end)
    if distances[size] == _FAR:
        raise InputError(
            "the vocabulary cannot write any text that the constraints allow: correct them"
        )
    is_end = np.zeros([len(tokens.texts)], bool)
    is_end[[end_id for end_id in end_ids if 0 <= end_id < len(is_end)]] = True
    continues = np.setdiff1d(class_of_id, class_of_id[is_end])
    is_complete = may_end & (distances[by_class[:, continues]] == _FAR).all(axis=1)
    return Guide(size, by_class, class_of_id, distances, must_end | is_complete)


def _whole(automaton: Automaton, dead: int) -> np.ndarray:
    """Returns int32 [dead + 1, 256], the state after a byte, for all states."""
    size = len(automaton.may_end)
    after = np.full([dead + 1, 256], dead, np.int32)
    after[:size] = np.where(automaton.after < 0, dead, automaton.after)
    # The text ends within an id: its other bytes do not count.
    after[:size][automaton.must_end] = np.flatnonzero(automaton.must_end)[:, np.newaxis]
    too_early = np.flatnonzero(automaton.must_end & ~automaton.may_end)
    return np.where(np.isin(after, too_early), dead, after).astype(np.int32)


def _walk(after: np.ndarray, texts: Sequence[bytes], start: int | None = None) -> np.ndarray:
    """Returns int32 [states, texts], the state after each text; [texts] from one state."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    lengths = np.array([len(texts[i]) for i in order])
    padded = np.zeros([max(1, lengths.max()), len(texts)], np.uint8)
    for column, i in enumerate(order):
        padded[: len(texts[i]), column] = np.frombuffer(texts[i], np.uint8)
    states = np.arange(len(after)) if start is None else np.array([start])
    table = np.repeat(states.astype(np.int32)[:, np.newaxis], len(texts), axis=1)
    for position in range(lengths.max()):
        longer = int(np.count_nonzero(lengths > position))
        table[:, :longer] = after[table[:, :longer], padded[position, :longer]]
    result = np.empty_like(table)
    result[:, order] = table
    return result if start is None else result[0]


def _distances(after: np.ndarray, may_end: np.ndarray) -> np.ndarray:
    """Returns the least number of ids to a state where the text may end, by dynamic programming."""
    distances = np.where(may_end, 0, _FAR).astype(np.int32)
    while True:
        shortest = np.minimum(distances, np.minimum(distances[after].min(axis=1), _FAR - 1) + 1)
        if np.array_equal(shortest, distances):
            return distances
        distances = shortest
