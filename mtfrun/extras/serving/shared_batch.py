"""Decoding in a shared batch: rows join and leave it while other rows are decoded.

Yu et al. 2022, "Orca", https://www.usenix.org/conference/osdi22/presentation/yu, section 3.1; also
called continuous batching. A row does not wait for the longest row of its batch, and its ids do not
depend on the other rows. Prompts are read in blocks between the steps of other rows (Agrawal et al.
2023, arXiv:2308.16369).

Dimensions:
  batch: the places, each free or with a row at a position of its own.
  block: the positions of a prompt that one call reads; 1 in a step.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import TARGETS
from mtfrun.decoding.controls.guide import Guide
from mtfrun.decoding.decoder import Decoder
from mtfrun.decoding.generate import fit_state
from mtfrun.decoding.search import Search
from mtfrun.experiment import Decoding, Inference
from mtfrun.extras.serving.row_steps import (
    Rows,
    SampleRows,
    Steps,
    may_differ_by_row,
    settings_of,
    take_steps,
)
from mtfrun.models import TextModel

# Programs of shorter caches decode while no row is longer: reading caches takes much of a step. A
# model of 3.3 million parameters, 16 rows, two cores: 2.9 ms with 256 positions, 1.9 with 64.
_QUARTERS = (1, 2, 3, 4)
# The arrays of numbers by place, for `Rows` and `SampleRows`.
_COLUMNS: Mapping[str, type[np.number[Any]]] = {
    **dict.fromkeys(("position", "prompt_lengths", "limit", "lines", "top_k"), np.int32),
    **dict.fromkeys(("temperature", "top_p", "frequency_penalty"), np.float32),
    **{"presence_penalty": np.float32, "keys": np.uint32},
}


def _write_part(x: mtf.Tensor, part: mtf.Tensor) -> mtf.Tensor:
    """Returns x with its first entries along the dimension that differs replaced by `part`."""
    for dim in x.shape:
        part_dim = part.shape.get_dim_by_name(dim.name)
        if part_dim != dim:
            zero = mtf.constant(x.mesh, 0, dtype=tf.int32)
            return mtf.write_block(x, part, dim, part_dim, zero)
    return part


class Decoded(NamedTuple):
    """A row's new ids since the last call, at least one."""

    place: int
    ids: np.ndarray
    log_probs: np.ndarray
    ended: bool  # whether the last id is the end id
    complete: bool  # whether it has ended, or its guide allows no further id
    done: bool  # whether it is complete or has reached its limit


class SharedBatch:
    """A batch of a fixed number of places; for one thread.

    Args:
      model: shares beginnings.
      length: the largest number of ids of a row, its prompt included.
      places: ascending batch sizes, a program each; the last is the number of places. Rows fill the
        first places, and the smallest program that holds them is used.
      steps: number of positions that a call of `advance` decodes.
      blocks: ascending numbers of ids of a prompt that a program reads.
    """

    def __init__(
        self,
        model: TextModel,
        *,
        length: int,
        places: Sequence[int],
        end_id: int,
        steps: int = 8,
        blocks: Sequence[int] = (32, 256),
    ):
        self._model, self._vocab, self._variables = model, model.vocab, model.named_variables()
        self._mesh = next(iter(self._variables.values())).mesh
        self._length, self._end_id = length, end_id
        # The first position that the decoder predicts.
        self._first = int(not model.predicts_first_id)
        self._sizes = list(places)
        self._batch = mtf.Dimension("batch", places[-1])
        self._steps = mtf.Dimension("steps", steps)
        self._blocks = sorted({min(block, length - self._first) for block in blocks})
        self._ids = np.zeros([places[-1], length], np.int32)
        self._columns = {name: np.zeros([places[-1]], dtype) for name, dtype in _COLUMNS.items()}
        self._guides: dict[int, tuple[Guide, int]] = {}  # with their states, by place
        self._unread: list[int] = []  # places of prompts
        self._taken: set[int] = set()
        self._no_guides = {size: self._mask(size) for size in self._sizes}
        jit = self._mesh.decodes_by_xla
        quarters = _QUARTERS[-1:] if self._mesh.is_distributed else _QUARTERS
        self._lengths = [-(-length * n // _QUARTERS[-1]) for n in quarters]
        self._caches = self._empty_caches()
        self._decode = mtf.function(self._decode_rows, jit_compile=jit)
        self._read = mtf.function(self._read_block, jit_compile=jit)

    @staticmethod
    def decodes(search: Search) -> bool:
        """Whether rows may have these settings: one beam, no filters, penalties by count alone.

        Stop texts and further end ids are left to the caller.
        """
        controls = search.controls
        has_row_penalties = all(map(may_differ_by_row, controls.processors))
        return search.beam_size == 1 and not controls.filters and has_row_penalties

    @property
    def places(self) -> int:
        return self._batch.size

    @property
    def taken(self) -> int:
        """The number of places with a row."""
        return len(self._taken)

    def compile(self) -> None:
        """Runs every program once, while all places are free."""
        limits = np.zeros([self.places], np.int32)
        for size in self._sizes[:-1]:
            self._call_decode(size, self._length, limits)
        for length in self._lengths:
            self._call_decode(self.places, length, limits)
        for size in self._blocks:
            self._call_read(np.zeros([size], np.int32), place=0, start=self._first)

    def join(
        self, ids: np.ndarray, limit: int, search: Search, line: int = 0, guide: Guide | None = None
    ) -> int:
        """Returns the place of a new row; one must be free. `advance` reads its prompt.

        ids: the prompt's; at least one, unless the model predicts the first id. limit: the largest
        number of ids of the row, at most `length`. search: only sampling and penalties count. line:
        see `Sample`.
        """
        place = next(i for i in range(self.places) if i not in self._taken)
        self._taken.add(place)
        if guide is not None:
            self._guides[place] = guide, guide.first
        row = {"limit": limit, "prompt_lengths": len(ids), "position": self._first}
        for name, value in {**row, **settings_of(search, line)}.items():
            self._columns[name][place] = value
        self._ids[place, : len(ids)] = ids
        if len(ids) > self._first:
            self._unread.append(place)
        return place

    def leave(self, place: int) -> None:
        self._taken.remove(place)
        self._guides.pop(place, None)
        if place in self._unread:
            self._unread.remove(place)
        for column in self._columns.values():
            column[place] = 0

    def advance(self) -> list[Decoded]:
        """Reads some ids of prompts, takes a number of steps, and returns the ids."""
        # At most a largest block: rows that decode wait for it.
        remaining = self._blocks[-1]
        while self._unread and remaining > 0:
            remaining -= self._read_some(self._unread[0])
        limits, position = self._columns["limit"], self._columns["position"]
        active = [i for i in self._taken.difference(self._unread) if limits[i] > 0]
        if not active:
            return []
        size = next(size for size in self._sizes if size > max(active))
        # Rows whose prompts are not read yet decode nothing.
        limits = np.where(np.isin(np.arange(self.places), active), limits, 0)
        if not self._guides.keys().isdisjoint(active):
            limits = np.minimum(limits, position + 1)
        steps = self._call_decode(size, self._length_for(size, limits), limits)
        return [self._take(place, steps) for place in sorted(active)]

    def _length_for(self, size: int, limits: np.ndarray) -> int:
        if size < self.places:
            return self._length
        position = self._columns["position"]
        # A step writes into the cache of every row, also of one whose prompt is not read yet.
        written = min(1 + max(position[list(self._taken)]), self._length)
        end = max(written, np.minimum(position + self._steps.size, limits).max())
        return next(length for length in self._lengths if length >= end)

    def _call_decode(self, size: int, length: int, limits: np.ndarray) -> Any:
        batch = mtf.Dimension(self._batch.name, size)
        columns = {**self._columns, "limit": limits}
        tensors = {name: self._import(x[:size], [batch]) for name, x in columns.items()}
        tensors["ids"] = self._import(self._ids[:size, :length], [batch, ("length", length)])
        has_guide = any(place < size for place in self._guides)
        tensors["allowed"] = self._mask(size) if has_guide else self._no_guides[size]
        return mtf.to_numpy(self._decode(tensors))

    def _mask(self, size: int) -> mtf.Tensor:
        """Returns bool {batch, vocab}, the ids that the guides of the first places allow."""
        allowed = np.ones([size, self._vocab.size], bool)
        for place, (guide, state) in self._guides.items():
            if place < size:
                remaining = self._columns["limit"][place] - self._columns["position"][place]
                allowed[place] = guide.mask_of(state, int(remaining))
        return self._import(allowed, [mtf.Dimension(self._batch.name, size), self._vocab])

    def _call_read(self, ids: np.ndarray, place: int, start: int) -> None:
        scalars = (self._import(np.asarray(x, np.int32), []) for x in (place, start))
        self._read(self._import(ids, [("block", len(ids))]), *scalars)

    def _take(self, place: int, steps: Any) -> Decoded:
        begin, end = int(self._columns["position"][place]), int(steps.position[place])
        ids, log_probs = steps.ids[place, begin:end], steps.log_probs[place, : end - begin]
        self._ids[place, begin:end] = ids
        self._columns["position"][place] = end
        complete = ended = bool(steps.ended[place])
        if place in self._guides:
            guide, state = self._guides[place]
            for token in ids:
                state = int(guide.after[state, guide.class_of_id[token]])
            self._guides[place] = guide, state
            complete = ended or bool(guide.ends[state])
        done = complete or end >= self._columns["limit"][place]
        if done:
            self._columns["limit"][place] = 0
        return Decoded(place, ids, log_probs, ended, complete, bool(done))

    def _read_some(self, place: int) -> int:
        """Reads a block of a prompt, and returns its size."""
        position, number = (int(self._columns[x][place]) for x in ("position", "prompt_lengths"))
        size = next((size for size in self._blocks if size >= number - position), self._blocks[-1])
        # Not beyond the last position: earlier ones are read again.
        start = min(position, self._length - size)
        block = np.zeros([size], np.int32)
        before = np.append(np.int32(0), self._ids[place, :number])[start : start + size]
        block[: len(before)] = before
        self._call_read(block, place, start)
        self._columns["position"][place] = end = min(start + size, number)
        if end == number:
            self._unread.remove(place)
        return size

    def _import(self, array: np.ndarray, shape: mtf.ShapeLike) -> mtf.Tensor:
        return mtf.import_tf_tensor(self._mesh, np.array(array), shape)

    def _decoder_for(self, batch: mtf.Dimension) -> Decoder:
        shape = [batch, mtf.Dimension("length", self._length)]
        decoder = self._model.decoder({TARGETS: mtf.zeros(self._mesh, shape, tf.int32)})
        assert decoder.in_blocks is not None
        return decoder.in_blocks()

    def _empty_caches(self) -> Any:
        state = mtf.function(lambda: self._decoder_for(self._batch).initial_state)()

        def empty_cache(x: mtf.Tensor) -> mtf.Variable:
            cache = mtf.Variable(x.mesh, x.shape, dtype=x.dtype, trainable=False, sharded_by=())
            cache.initialize(0, "shared_batch")
            return cache

        return tf.nest.map_structure(empty_cache, state)

    def _decode_rows(self, tensors: Mapping[str, mtf.Tensor]) -> Steps:
        rows = Rows(**{name: tensors[name] for name in Rows._fields})
        settings = {name: x for name, x in tensors.items() if name not in Rows._fields}
        batch, length = rows.ids.shape
        caches = tf.nest.map_structure(mtf.read_variable, self._caches)
        with mtf.read_once(self._variables):
            decoder = self._decoder_for(batch)
            if length.size < self._length and decoder.within is not None:
                decoder = decoder.within(length.size)
            state = fit_state(caches, decoder.initial_state)
            choose = SampleRows(self._vocab, **settings)
            last = take_steps(decoder, state, rows, choose, self._steps, end_id=self._end_id)
        state = tf.nest.map_structure(_write_part, caches, last.state)
        tf.nest.map_structure(mtf.assign, self._caches, state)
        return last._replace(state=())

    def _read_block(self, ids: mtf.Tensor, place: mtf.Tensor, start: mtf.Tensor) -> mtf.Tensor:
        """Reads ids {block}, those before the positions from `start` on."""
        (block,) = ids.shape
        batch = mtf.Dimension(self._batch.name, self._sizes[0])
        caches = tf.nest.map_structure(mtf.read_variable, self._caches)
        with mtf.read_once(self._variables):
            decoder = self._decoder_for(batch)
            row = tf.nest.map_structure(lambda x: mtf.gather(x, place, self._batch), caches)
            state = fit_state(row, decoder.initial_state)
            positions = start + mtf.range(self._mesh, block)
            _, state = decoder.step(mtf.broadcast(ids, [batch, block]), positions, state)
        for cache, x, read in zip(
            *map(tf.nest.flatten, (self._caches, caches, state)), strict=True
        ):
            row = mtf.gather(read, 0, batch)
            mtf.assign(cache, mtf.write_position(x, row, self._batch, place))
        return start


@functools.singledispatch
def shared_batch_of(inference: Inference, places: Sequence[int]) -> SharedBatch | None:
    """Returns a batch for rows of `prompt_format`; on several devices of the last size only.

    None for encoder-decoders, prefix language models, models with learned prompts, and layers that
    read positions one after the other, in which all rows must be at one position.
    """
    del inference, places
    return None


@shared_batch_of.register
def _(decoding: Decoding, places: Sequence[int]) -> SharedBatch | None:
    if not decoding.model.shares_beginnings:
        return None
    rows = [decoding.experiment.rows_for(n) for n in places]
    return SharedBatch(
        decoding.model,
        length=decoding.prompt_format.max_lengths[TARGETS],
        places=rows[-1:] if decoding.experiment.mesh.is_distributed else rows,
        end_id=decoding.search.controls.ends(decoding.data.vocabulary.end_id)[0],
    )
