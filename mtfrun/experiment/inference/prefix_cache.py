"""Prompts that begin with the same ids, such as an instruction: these are read once."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import decoding, mtf
from mtfrun.data import TARGETS, PromptFormat, PromptRow
from mtfrun.data.prompts import SHORTEST_ROW, bucket
from mtfrun.experiment.experiment import Experiment
from mtfrun.models import TextModel

# A CPU does so many operations while it compiles the programs of a common beginning.
_WORTH_PROGRAMS = 1e11

# The part of a beginning that must be cached for the rest to be read with each prompt instead: a
# conversation grows by its last turn.
_MOST_OF_BEGINNING = 0.875

# How many beginnings are cached, and how many earlier prompts are compared with new ones.
_CACHED = 4


class Group(NamedTuple):
    """Rows by their index, and the number of ids with which all of them begin; 0 for any rows."""

    rows: list[int]
    common: int


class PrefixCache:
    """Finds common beginnings of prompts, in one call and in consecutive ones, and reads each once.

    Thread-safe.
    """

    def __init__(self, experiment: Experiment, model: TextModel, prompt_format: PromptFormat):
        self._experiment = experiment
        self._model = model
        self._format = prompt_format
        self._states: dict[bytes, Any] = {}
        self._earlier: collections.deque[np.ndarray] = collections.deque(maxlen=_CACHED)
        self._savable = 0
        self._lock = threading.Lock()
        # By the number of ids that are read after a cached beginning, 0 without one.
        self._program = functools.cache(self._make_program)

    def groups(self, rows: Sequence[PromptRow], *, always: bool) -> list[Group]:
        """Returns the rows in groups, one of them without a common beginning.

        Unless `always`, beginnings are read once as soon as this would have saved more time, in all
        calls so far, than the programs for it cost.
        """
        if not self._model.shares_beginnings:
            return [Group(list(range(len(rows))), 0)]
        ids = [row.ids for row in rows]
        with self._lock:
            groups = group_by_beginning(ids, self._earlier)
            self._earlier.extend(ids[-_CACHED:])
            tokens = sum(max(1, len(group.rows) - 1) * group.common for group in groups)
            self._savable += tokens * 2 * self._model.count_parameters().active
            if not always and self._savable < _WORTH_PROGRAMS:
                return [Group(list(range(len(rows))), 0)]
            shared = [
                Group(rows, self._cached_part(ids[rows[0]][:common]))
                for rows, common in groups
                if common
            ]
        alone = sorted(group.rows[0] for group in groups if not group.common)
        return [*shared, Group(alone, 0)]

    def read(self, ids: np.ndarray) -> tuple[Any, mtf.Tensor]:
        """Returns the first two members of a `decoding.Beginning` of these ids."""
        number = mtf.import_tf_tensor(self._experiment.mesh, np.int32(len(ids)), [])
        key = ids.tobytes()
        with self._lock:
            for cached, state in self._states.items():
                # Steps see no later positions.
                if cached.startswith(key):
                    return state, number
            state = self._state(ids)
            if len(self._states) == _CACHED:
                del self._states[next(iter(self._states))]
            self._states[key] = state
            return state, number

    def _cached_part(self, ids: np.ndarray) -> int:
        """Returns the number of ids that are cached, if these are most of them; else all."""
        longest = len(self._longest_cached(ids)) // ids.itemsize
        return longest if _MOST_OF_BEGINNING * len(ids) <= longest else len(ids)

    def _longest_cached(self, ids: np.ndarray) -> bytes:
        key = ids.tobytes()
        return max((x for x in self._states if key.startswith(x)), key=len, default=b"")

    def _state(self, ids: np.ndarray) -> Any:
        """Reads the ids, or what follows the longest of their beginnings that is cached."""
        mesh, rows = self._experiment.mesh, self._experiment.rows_for(1)
        batch, size = mtf.Dimension("batch", rows), len(ids)
        row = PromptRow(ids, size, 0, size, size)
        lengths = self._format.lengths(row)
        array = self._format.features([row] * rows, rows, lengths)[TARGETS]
        features = {TARGETS: mtf.import_tf_tensor(mesh, array, [batch, ("length", array.shape[1])])}
        cached = self._longest_cached(ids)
        remaining = bucket(size - len(cached) // ids.itemsize)
        # The program reads so many ids, which must be in the row: perhaps some that are cached.
        begin = min(len(cached) // ids.itemsize, array.shape[1] - remaining)
        beginning = None
        if begin > 0:
            number = mtf.import_tf_tensor(mesh, np.int32(begin), [])
            beginning = (self._states[cached], number)
        sizes = mtf.import_tf_tensor(mesh, np.full([rows], size, np.int32), [batch])
        return self._program(remaining if begin > 0 else 0)(features, sizes, beginning)

    def _make_program(self, remaining: int) -> Callable[..., Any]:
        def read(
            features: Mapping[str, mtf.Tensor],
            sizes: mtf.Tensor,
            beginning: tuple[Any, mtf.Tensor] | None,
        ) -> Any:
            """Returns the state of rows that are equal, without their dimension."""
            (batch,) = sizes.shape
            decoder = self._model.decoder(features)
            if beginning is not None:
                assert decoder.after is not None
                decoder = decoder.after(decoding.Beginning(*beginning, remaining))
            else:
                assert decoder.in_blocks is not None
                decoder = decoder.in_blocks()
            assert decoder.at_once is not None
            state = decoder.at_once(features[TARGETS].shape[1].size, sizes).initial_state
            return tf.nest.map_structure(lambda x: mtf.gather(x, 0, batch), state)

        return mtf.function(read, jit_compile=self._experiment.mesh.decodes_by_xla)


def group_by_beginning(
    prompts: Sequence[np.ndarray], earlier: Iterable[np.ndarray] = (), shortest: int = SHORTEST_ROW
) -> list[Group]:
    """Returns groups of prompts that begin with the same `shortest` ids or more.

    A prompt joins a group of which it does not halve the common beginning. One that is alone has
    what it shares with one of the `earlier` prompts.

    Examples:
      >>> group_by_beginning([np.array(ids) for ids in ([1, 2, 3], [5], [1, 2, 4])], shortest=2)
      [Group(rows=[0, 2], common=2), Group(rows=[1], common=0)]
    """
    groups: list[Group] = []
    for index in sorted(range(len(prompts)), key=lambda index: prompts[index].tolist()):
        if groups:
            rows, common = groups[-1]
            shared = min(common, _count_common(prompts[rows[0]], prompts[index]))
            if shared >= shortest and (len(rows) == 1 or 2 * shared >= common):
                groups[-1] = Group([*rows, index], shared)
                continue
        groups.append(Group([index], len(prompts[index])))
    for i, (rows, _) in enumerate(groups):
        if len(rows) == 1:
            shared = max((_count_common(prompts[rows[0]], ids) for ids in earlier), default=0)
            groups[i] = Group(rows, shared if shared >= shortest else 0)
    return groups


def _count_common(a: np.ndarray, b: np.ndarray) -> int:
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if differs.size else size
