"""A guide: an automaton over the ids of a vocabulary; decoding advances a state for each row.

It masks ids after which the text could not be completed within the row's limit, if that is long
enough, and says where a text must end.

Dimensions:
  guide_states: the automaton's states; forbidden texts lead to the last.
  guide_classes: ids with the same transitions from every state; far fewer than there are ids.
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
IMPOSSIBLE = -1e30
# Entries of a table, which a program holds several times.
_LARGEST = 1 << 23
# A column is looked up or computed after each kind of byte.
_STEPS_PER_COLUMN = 128


class TokenTexts(NamedTuple):
    """The texts of the ids of a vocabulary.

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
      ends: bool [states], whether an output is complete and must end.
    """

    first: int
    after: np.ndarray
    class_of_id: np.ndarray
    distances: np.ndarray
    ends: np.ndarray

    def mask(self, logits: mtf.Tensor, state: mtf.Tensor, remaining: mtf.Tensor) -> mtf.Tensor:
        """Returns logits {rows, vocab} with the forbidden next ids masked.

        state: {rows} int32; remaining: int32, rows of some of these dimensions, the number of ids
        that are left, at least 1.
        """
        mesh, (states, classes) = logits.mesh, self._dims
        (vocab,) = logits.shape - state.shape
        distances = mtf.constant(mesh, self.distances, [states], tf.int32)
        after = mtf.constant(mesh, self.distances[self.after], [states, classes], tf.int32)
        ids = mtf.constant(mesh, self.class_of_id, [vocab], tf.int32)
        # Where the limit is too short for any text, the shortest is written.
        longest = mtf.maximum(remaining, mtf.gather(distances, state, states)) - 1
        allowed = mtf.less_equal(mtf.gather(after, state, states), longest)
        allowed = mtf.gather(
            mtf.to_int32(allowed), ids, classes, output_shape=[*state.shape, vocab]
        )
        return mtf.where(mtf.equal(allowed, 1), logits, IMPOSSIBLE, logits.shape)

    def mask_of(self, state: int, remaining: int) -> np.ndarray:
        longest = max(remaining, int(self.distances[state])) - 1
        is_allowed: np.ndarray = (self.distances[self.after[state]] <= longest)[self.class_of_id]
        return is_allowed

    def advance(self, state: mtf.Tensor, token: mtf.Tensor) -> mtf.Tensor:
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
        """Returns the number of ids after which a text is complete, or None."""
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
    columns = _Columns(_whole(automaton, dead), size)
    classes: dict[bytes, int] = {}
    numbers: dict[tuple[int, int], int] = {}  # of classes
    class_of_id = np.zeros([len(tokens.texts)], np.int32)
    for token, text in enumerate(tokens.texts):
        first = text.removeprefix(b" ") if tokens.first_without_space else text
        key = columns.number(text), int(columns[columns.number(first)][0])
        if token in end_ids or not text or key not in numbers:
            column = columns[key[0]].copy()
            if token in end_ids:
                column = np.where(may_end, np.arange(dead + 1), dead).astype(np.int32)
            elif text:
                column[size] = key[1]
            elif not allow_special:
                column[:] = dead
            class_of_id[token] = classes.setdefault(column.tobytes(), len(classes))
            if text and token not in end_ids:
                numbers[key] = class_of_id[token]
        else:
            class_of_id[token] = numbers[key]
    by_class = np.stack([np.frombuffer(column, np.int32) for column in classes], axis=1)
    distances = _distances(by_class, may_end)
    if distances[size] == _FAR:
        raise InputError("the vocabulary cannot write any text that the constraints allow")
    is_end = np.zeros([len(tokens.texts)], bool)
    is_end[[end_id for end_id in end_ids if 0 <= end_id < len(is_end)]] = True
    continues = np.setdiff1d(class_of_id, class_of_id[is_end])
    is_complete = may_end & (distances[by_class[:, continues]] == _FAR).all(axis=1)
    return Guide(size, by_class, class_of_id, distances, must_end | is_complete)


def _whole(automaton: Automaton, dead: int) -> np.ndarray:
    size = len(automaton.may_end)
    after = np.full([dead + 1, 256], dead, np.int32)
    after[:size] = np.where(automaton.after < 0, dead, automaton.after)
    # The text ends within an id: its other bytes do not count.
    after[:size][automaton.must_end] = np.flatnonzero(automaton.must_end)[:, np.newaxis]
    too_early = np.flatnonzero(automaton.must_end & ~automaton.may_end)
    return np.where(np.isin(after, too_early), dead, after).astype(np.int32)


class _Columns:
    """The states after texts, int32 [states] each, from each of the states of an automaton.

    Bytes, and beginnings of texts, with the same transitions from every state are merged: there are
    far fewer of them than ids in a vocabulary.

    Args:
      after: int32 [states, 256], the state after a byte.
    """

    def __init__(self, after: np.ndarray, size: int):
        self._size = size
        by_kind, self._kinds = np.unique(after, axis=1, return_inverse=True)
        self._after = by_kind.T.copy()
        self._columns = [np.arange(len(after), dtype=np.int32)]
        self._numbers = {self._columns[0].tobytes(): 0}
        self._next: dict[tuple[int, int], int] = {}

    def __getitem__(self, number: int) -> np.ndarray:
        return self._columns[number]

    def number(self, text: bytes) -> int:
        number = 0
        for kind in self._kinds[np.frombuffer(text, np.uint8)].tolist():
            after = self._next.get((number, kind))
            number = self._add(number, kind) if after is None else after
        return number

    def _add(self, number: int, kind: int) -> int:
        column = self._after[kind][self._columns[number]]
        after = self._numbers.setdefault(column.tobytes(), len(self._columns))
        if after == len(self._columns):
            self._columns.append(column)
        self._next[number, kind] = after
        steps = max(len(self._columns), len(self._next) // _STEPS_PER_COLUMN)
        if steps * len(column) > _LARGEST:
            need = f"need a table of more than {_LARGEST:,} entries"
            raise InputError(f"the constraints and stop strings {need}: shorten them")
        return after


def _distances(after: np.ndarray, may_end: np.ndarray) -> np.ndarray:
    states = len(after)
    sources = np.arange(states)[:, np.newaxis]
    targets, sources = np.divmod(np.unique(after * np.int64(states) + sources), states)
    begins = np.searchsorted(targets, np.arange(states + 1))
    distances = np.full([states], _FAR, np.int32)
    reached, distance = np.flatnonzero(may_end), 0
    while reached.size:
        distances[reached] = distance
        before = np.concatenate([sources[begins[x] : begins[x + 1]] for x in reached])
        reached = np.unique(before[distances[before] == _FAR])
        distance += 1
    return distances
