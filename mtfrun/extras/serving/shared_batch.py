"""Decoding in a shared batch: rows join and leave it while other rows are decoded.

Yu et al. 2022, "Orca", https://www.usenix.org/conference/osdi22/presentation/yu, section 3.1; also
called continuous batching. A row does not wait for the longest row of its batch, and its ids do not
depend on the other rows. Prompts are read in blocks between the steps of other rows (Agrawal et al.
2023, arXiv:2308.16369).

Dimensions:
  batch: the places, each free or with a row at a position of its own.
  steps: the positions that one call of a program decodes.
  block: the positions of a prompt that one call reads; 1 in a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.controls import Controls
from mtfrun.decoding.controls.guide import Guide
from mtfrun.decoding.controls.rules import DecodedIds
from mtfrun.decoding.decoder import Decoder
from mtfrun.decoding.generate import fit_state
from mtfrun.decoding.search import Search
from mtfrun.extras.serving.sample_rows import RowSettings, SampleRows, may_differ_by_row

# Programs of shorter caches decode while no row is longer: reading caches takes much of a step. A
# model of 3.3 million parameters, 16 rows, two cores: 2.9 ms with 256 positions, 1.9 with 64.
_QUARTERS = (1, 2, 3, 4)


class Rows(NamedTuple):
    """The rows of a batch, {batch} int32."""

    ids: mtf.Tensor  # {batch, length}, valid before the position
    previous: mtf.Tensor  # the id before the position
    position: mtf.Tensor  # the first without an id
    prompt_lengths: mtf.Tensor
    limit: mtf.Tensor  # the largest number of ids; rows at their limit decode nothing


class Steps(NamedTuple):
    """The results of several steps."""

    ids: mtf.Tensor  # {batch, steps} int32, 0 behind a row's last one
    log_probs: mtf.Tensor  # {batch, steps} float32
    number: mtf.Tensor  # {batch} int32, of ids
    ended: mtf.Tensor  # {batch} bool, whether the last one is the end id


class _Progress(NamedTuple):
    step: mtf.Tensor
    rows: Rows
    decoded: Steps
    state: Any


def take_steps(
    decoder: Decoder,
    state: Any,
    rows: Rows,
    choose: SampleRows,
    steps: mtf.Dimension,
    *,
    end_id: int,
) -> tuple[Steps, Any]:
    """Decodes every row at its own position, and returns the decoder's next state too.

    It stops early when every row has ended or reached its limit.
    """
    mesh, shape = rows.position.mesh, rows.position.shape
    (length,) = rows.ids.shape - shape
    first = Steps(
        mtf.zeros(mesh, [*shape, steps], tf.int32),
        mtf.zeros(mesh, [*shape, steps]),
        mtf.zeros(mesh, shape, tf.int32),
        mtf.zeros(mesh, shape, tf.bool),
    )

    def is_open(progress: _Progress) -> mtf.Tensor:
        is_short = mtf.less(progress.rows.position, progress.rows.limit)
        return mtf.logical_and(is_short, mtf.logical_not(progress.decoded.ended))

    def advance(progress: _Progress) -> list[_Progress]:
        (i, rows, decoded, state), counts = progress, is_open(progress)
        logits, state = _step(decoder, rows, state)
        (vocab,) = logits.shape - shape
        written = DecodedIds(rows.ids, rows.position, rows.prompt_lengths, (end_id,), rows.limit)
        token = choose(choose.process(logits, written), rows.position)
        token = mtf.where(counts, token, 0)
        log_prob = mtf.gather(logits, token, vocab) - mtf.reduce_logsumexp(logits, vocab)
        is_written = mtf.logical_and(
            counts, mtf.equal(mtf.range(mesh, steps), i), output_shape=[*shape, steps]
        )
        number = mtf.cast(counts, tf.int32)
        decoded = Steps(
            mtf.where(is_written, token, decoded.ids, output_shape=decoded.ids.shape),
            mtf.where(is_written, log_prob, decoded.log_probs, output_shape=decoded.ids.shape),
            decoded.number + number,
            mtf.logical_or(decoded.ended, mtf.logical_and(counts, mtf.equal(token, end_id))),
        )
        is_next = mtf.equal(mtf.range(mesh, length), rows.position, output_shape=rows.ids.shape)
        rows = rows._replace(
            ids=mtf.where(is_next, token, rows.ids, output_shape=rows.ids.shape),
            previous=mtf.where(counts, token, rows.previous),
            position=rows.position + number,
        )
        return [_Progress(i + 1, rows, decoded, state)]

    (last,) = mtf.while_loop(
        lambda p: mtf.logical_and(mtf.less(p.step, steps.size), mtf.reduce_any(is_open(p))),
        advance,
        [_Progress(mtf.constant(mesh, 0, dtype=tf.int32), rows, first, state)],
        rounds=steps.size,
    )
    return last.decoded, last.state


def _step(decoder: Decoder, rows: Rows, state: Any) -> tuple[mtf.Tensor, Any]:
    """Returns float32 logits {batch, vocab}, and the next state."""
    one = mtf.Dimension("block", 1)
    previous, position = (mtf.reshape(x, [*x.shape, one]) for x in (rows.previous, rows.position))
    logits, state = decoder.step(previous, position, state)
    return mtf.to_float(mtf.gather(logits, 0, one)), state


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
      decoder_for: makes a decoder `in_blocks` of so many rows, with positions below `length`.
      variables: the model's, by path.
      length: the largest number of ids of a row, its prompt included.
      places: ascending batch sizes, a program each; the last is the number of places. Rows fill the
        first places, and the smallest program that holds them is used.
      first_position: the first position that the decoder predicts, 0 or 1.
      steps: number of positions that a call of `advance` decodes.
      blocks: ascending numbers of ids of a prompt that a program reads.
    """

    def __init__(
        self,
        decoder_for: Callable[[mtf.Dimension], Decoder],
        vocab: mtf.Dimension,
        variables: Mapping[str, mtf.Variable],
        *,
        length: int,
        places: Sequence[int],
        first_position: int,
        end_id: int,
        steps: int = 8,
        blocks: Sequence[int] = (32, 256),
    ):
        self._decoder_for, self._vocab, self._variables = decoder_for, vocab, variables
        self._mesh = next(iter(variables.values())).mesh
        self._length, self._first, self._end_id = length, first_position, end_id
        self._sizes = list(places)
        self._batch = mtf.Dimension("batch", places[-1])
        self._steps = mtf.Dimension("steps", steps)
        self._blocks = sorted({min(block, length - first_position) for block in blocks})
        self._rows = {name: np.zeros([places[-1]], np.int32) for name in Rows._fields}
        self._rows["ids"] = np.zeros([places[-1], length], np.int32)
        self._settings = RowSettings(places[-1], vocab)
        self._unread: dict[int, np.ndarray] = {}  # prompts, by place
        self._taken: set[int] = set()
        jit = self._mesh.decodes_by_xla
        quarters = _QUARTERS[-1:] if self._mesh.is_distributed else _QUARTERS
        self._lengths = [-(-length * n // _QUARTERS[-1]) for n in quarters]
        self._caches = self._empty_caches()
        self._decode = mtf.function(self._decode_rows, jit_compile=jit)
        self._read = mtf.function(self._read_block, jit_compile=jit)

    @staticmethod
    def decodes(search: Search) -> bool:
        """Whether rows may have these settings: sampling, penalties by count, constraints.

        Stop texts and further end ids are left to the caller.
        """
        ignored = ("processors", "constraints", "stop", "end_ids", "vocabulary_end", "log_probs")
        defaults = {name: getattr(Controls(), name) for name in ignored}
        plain = dataclasses.replace(
            search,
            **{name: getattr(Search(), name) for name in ("temperature", "top_k", "top_p", "seed")},
            controls=dataclasses.replace(search.controls, **defaults),
        )
        one_beam = Search(1, search.alpha, search.stop_early, search.as_transformers)
        return plain == one_beam and all(map(may_differ_by_row, search.controls.processors))

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

        ids: the prompt's, at least `first_position`. limit: the largest number of ids of the row,
        at most `length`. search: only sampling and penalties count. line: see `Sample`.
        """
        place = next(i for i in range(self.places) if i not in self._taken)
        self._taken.add(place)
        self._settings.set(place, search, line, guide)
        self._rows["limit"][place] = limit
        self._rows["prompt_lengths"][place] = len(ids)
        self._rows["ids"][place, : len(ids)] = ids
        self._unread[place] = ids
        self._rows["position"][place] = self._first
        self._finish_reading(place)
        return place

    def leave(self, place: int) -> None:
        self._taken.remove(place)
        self._unread.pop(place, None)
        self._settings.clear(place)
        self._rows["limit"][place] = 0

    def advance(self) -> list[Decoded]:
        """Reads some ids of prompts, takes a number of steps, and returns the ids."""
        # At most a largest block: rows that decode wait for it.
        remaining = self._blocks[-1]
        while self._unread and remaining > 0:
            remaining -= self._read_some(next(iter(self._unread)))
        limits = self._rows["limit"]
        active = [i for i in self._taken - self._unread.keys() if limits[i] > 0]
        if not active:
            return []
        size = next(size for size in self._sizes if size > max(active))
        # Rows whose prompts are not read yet decode nothing.
        limits = np.where(np.isin(np.arange(self.places), active), limits, 0)
        if self._settings.has_guide(active):
            limits = np.minimum(limits, self._rows["position"] + 1)
        steps = self._call_decode(size, self._length_for(size, limits), limits)
        return [self._take(place, steps) for place in sorted(active)]

    def _length_for(self, size: int, limits: np.ndarray) -> int:
        if size < self.places:
            return self._length
        position = self._rows["position"]
        # A step writes into the cache of every row, also of one whose prompt is not read yet.
        written = min(1 + max(position[list(self._taken)]), self._length)
        end = max(written, np.minimum(position + self._steps.size, limits).max())
        return next(length for length in self._lengths if length >= end)

    def _call_decode(self, size: int, length: int, limits: np.ndarray) -> Any:
        batch = mtf.Dimension(self._batch.name, size)
        arrays = {**self._rows, "limit": limits}
        ids = self._import(arrays.pop("ids")[:size, :length], [batch, ("length", length)])
        rows = Rows(ids, **{name: self._import(x[:size], [batch]) for name, x in arrays.items()})
        remaining = self._rows["limit"] - self._rows["position"]
        settings = self._settings.tensors(self._mesh, batch, remaining)
        return mtf.to_numpy(self._decode(rows, settings))

    def _call_read(self, ids: np.ndarray, place: int, start: int) -> None:
        scalars = (self._import(np.asarray(x, np.int32), []) for x in (place, start))
        self._read(self._import(ids, [("block", len(ids))]), *scalars)

    def _take(self, place: int, steps: Any) -> Decoded:
        number, rows = int(steps.number[place]), self._rows
        ids, log_probs = steps.ids[place, :number], steps.log_probs[place, :number]
        begin = rows["position"][place]
        rows["ids"][place, begin : begin + number] = ids
        rows["position"][place] += number
        rows["previous"][place] = ids[-1]
        ended = bool(steps.ended[place])
        complete = self._settings.advance(place, ids) or ended
        done = complete or rows["position"][place] >= rows["limit"][place]
        if done:
            rows["limit"][place] = 0
        return Decoded(place, ids, log_probs, ended, complete, bool(done))

    def _read_some(self, place: int) -> int:
        """Reads a block of a prompt, and returns its size."""
        ids, position = self._unread[place], int(self._rows["position"][place])
        missing = len(ids) - position
        size = next((size for size in self._blocks if size >= missing), self._blocks[-1])
        # Not beyond the last position: earlier ones are read again.
        start = min(position, self._length - size)
        block = np.zeros([size], np.int32)
        before = np.append(np.int32(0), ids)[start : start + size]
        block[: len(before)] = before
        self._call_read(block, place, start)
        self._rows["position"][place] = min(start + size, len(ids))
        self._finish_reading(place)
        return size

    def _finish_reading(self, place: int) -> None:
        ids = self._unread[place]
        if self._rows["position"][place] >= len(ids):
            del self._unread[place]
            self._rows["previous"][place] = ids[-1] if len(ids) else 0

    def _import(self, array: np.ndarray, shape: mtf.ShapeLike) -> mtf.Tensor:
        return mtf.import_tf_tensor(self._mesh, np.array(array), shape)

    def _empty_caches(self) -> Any:
        state = mtf.function(lambda: self._decoder_for(self._batch).initial_state)()

        def empty_cache(x: mtf.Tensor) -> mtf.Variable:
            cache = mtf.Variable(x.mesh, x.shape, dtype=x.dtype, trainable=False, sharded_by=())
            cache.initialize(0, "shared_batch")
            return cache

        return tf.nest.map_structure(empty_cache, state)

    def _decode_rows(self, rows: Rows, settings: Mapping[str, mtf.Tensor]) -> Steps:
        batch, length = rows.ids.shape
        caches = tf.nest.map_structure(mtf.read_variable, self._caches)
        with mtf.read_once(self._variables):
            decoder = self._decoder_for(batch)
            if length.size < self._length and decoder.within is not None:
                decoder = decoder.within(length.size)
            state = fit_state(caches, decoder.initial_state)
            choose = SampleRows(self._vocab, **settings)
            steps, state = take_steps(
                decoder, state, rows, choose, self._steps, end_id=self._end_id
            )
        state = tf.nest.map_structure(_write_part, caches, state)
        tf.nest.map_structure(mtf.assign, self._caches, state)
        return steps

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
