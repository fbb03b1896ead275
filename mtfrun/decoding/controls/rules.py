"""The rules of outputs: what a user requires, how logits are processed, and where outputs end."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.automaton import Constraint, all_of, check_texts, containing_each
from mtfrun.decoding.controls.guide import Guide, TokenTexts, make_guide
from mtfrun.decoding.controls.sampling import TokenFilter
from mtfrun.decoding.decoder import END_ID
from mtfrun.errors import InputError
from mtfrun.errors.checks import INDEX, check_range

_NO_ID = -2
# The longest time of all constraints.
_MOST_SECS = 25.0


@dataclasses.dataclass(frozen=True)
class Controls:
    """Requirements on outputs beyond a decoding method.

    Attributes:
      processors: change the logits, in this order and before the temperature: penalties, or your
        own functions of `LogitProcessor`'s form.
      filters: narrow the draws of sampling, in this order and after top_k and top_p.
      constraints: all of them hold for the texts of outputs.
      stop: the first of these texts ends an output and is not part of it.
      end_ids: ids that end an output besides the vocabulary's.
      vocabulary_end: whether the vocabulary's end id ends an output.
      log_probs: the log-probabilities of this many most likely ids at each position are returned
        with the output's; 0 returns only the output's, None does not return any.
    """

    processors: Sequence[LogitProcessor] = ()
    filters: Sequence[TokenFilter] = ()
    constraints: Sequence[Constraint] = ()
    stop: Sequence[str] = ()
    end_ids: Sequence[int] = ()
    vocabulary_end: bool = True
    log_probs: int | None = None

    def __post_init__(self) -> None:
        for name, method, example in (
            ("processors", "__call__", "RepetitionPenalty"),
            ("filters", "__call__", "MinP"),
            ("constraints", "automaton", "ForcedWords"),
        ):
            for item in getattr(self, name):
                if isinstance(item, type) or not callable(getattr(item, method, None)):
                    remedy = f"list objects such as @decoding.{example}()"
                    raise InputError(f"Controls.{name} has {item!r} without {method}: {remedy}")
        check_texts("Controls.stop", self.stop)
        check_range("Controls.log_probs", self.log_probs, INDEX, optional=True)
        for end_id in self.end_ids:
            check_range("Controls.end_ids", end_id, INDEX)

    def ends(self, end_id: int) -> tuple[int, ...]:
        """Returns the ids that end an output, first the vocabulary's, or else an impossible id."""
        return (end_id if self.vocabulary_end else _NO_ID, *self.end_ids)

    def rules(self, end_id: int, tokens: Callable[[], TokenTexts] | None = None) -> Rules:
        """Returns the rules of outputs.

        Args:
          end_id: the vocabulary's.
          tokens: returns the texts of its ids; for constraints and stop texts.
        """
        end_ids, automata = self.ends(end_id), []
        latest = time.monotonic() + _MOST_SECS
        for constraint in self.constraints:
            automata.append(constraint.automaton())
            if time.monotonic() > latest:
                need = f"need more than {_MOST_SECS:g} s, up to {constraint!r:.200}"
                raise InputError(f"Controls.constraints {need}: leave some out")
        automata += containing_each(self.stop, ends=True)
        if not automata:
            return Rules(end_ids, self.processors, log_probs=self.log_probs)
        assert tokens is not None
        guide = make_guide(all_of(automata), tokens(), end_ids, allow_special=not self.constraints)
        return Rules(end_ids, self.processors, guide, self.log_probs)

    def cut(self, text: str) -> str:
        ends = [text.find(stop) for stop in self.stop]
        return text[: min((end for end in ends if end >= 0), default=len(text))]


class DecodedIds(NamedTuple):
    """The ids of the rows before the position of the logits.

    The rows are {batch}, {batch, beam}, or {batch, block} where a draft is checked.

    Attributes:
      ids: {rows, length} int32, or {batch, length}; only those before `position` count.
      position: int32, a scalar or {rows}.
      prompt_lengths: {batch} int32, the number of ids of each prompt.
      end_ids: the ids that end an output.
      limits: {batch} int32, the largest number of ids of a row, its prompt included.
    """

    ids: mtf.Tensor
    position: mtf.Tensor
    prompt_lengths: mtf.Tensor
    end_ids: Sequence[int]
    limits: mtf.Tensor

    @property
    def length(self) -> mtf.Dimension:
        return self.ids.shape.get_dim_by_name("length")

    def vocab_of(self, logits: mtf.Tensor) -> mtf.Dimension:
        (vocab,) = logits.shape - self.ids.shape - self.position.shape
        return vocab

    def is_before(self, *, with_prompt: bool = True) -> mtf.Tensor:
        """Returns {rows, length} bool: which ids count, the prompt's only if asked for."""
        index = mtf.range(self.ids.mesh, self.length)
        rows = self.ids.shape - self.length + (self.position.shape - self.ids.shape)
        before = mtf.less(index, self.position, output_shape=[*rows, self.length])
        if with_prompt:
            return before
        return mtf.logical_and(before, mtf.greater_equal(index, self.prompt_lengths, before.shape))

    def counts(self, vocab: mtf.Dimension, where: mtf.Tensor) -> mtf.Tensor:
        """Returns {rows, vocab} float32: how often each id occurs where a condition holds.

        where: {rows, length} bool. Devices count all rows and ids, since DTensor would replicate
        the sums of their parts.
        """
        rows = where.shape - self.length
        ids = mtf.where(where, self.ids, -1, output_shape=where.shape)

        def count(ids: tf.Tensor) -> tf.Tensor:
            row = np.arange(rows.size, dtype=np.int32)[:, np.newaxis] * vocab.size
            flat = tf.reshape(ids, [rows.size, self.length.size])
            # Negative segments are left out.
            segments = tf.where(flat >= 0, flat + row, -1)
            ones = tf.ones(segments.shape)
            sums = tf.math.unsorted_segment_sum(ones, segments, rows.size * vocab.size)
            return tf.reshape(sums, [*rows.to_integer_list, vocab.size])

        counts: mtf.Tensor = mtf.slicewise(count, [ids], [*rows, vocab], tf.float32)
        return counts


def is_one_of(ids: mtf.Tensor, numbers: Sequence[int]) -> mtf.Tensor:
    """Returns which of the ids {...} are among the numbers, at least one."""
    return functools.reduce(mtf.logical_or, (mtf.equal(ids, number) for number in numbers))


class LogitProcessor(Protocol):
    """Changes the logits of the next id, by the ids before it; called inside `mtf.function`."""

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        """Returns logits {rows, vocab} for float32 logits of this shape, in any order.

        An id that must not be chosen gets `FORBIDDEN`. A beam search hands on log-probabilities,
        which it does not normalise again, as transformers does.
        """


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of outputs, the same for every decoding method.

    Attributes:
      end_ids: ids that end an output; the first, the vocabulary's, also ends a row in its
        prompt, unless `Decoder.ends_in_prompts`.
      processors: applied in this order, before the temperature.
      guide: the texts that may be written, and their ends.
      log_probs: the number of most likely ids that the `Trace` has for each position; None for no
        trace.
    """

    end_ids: Sequence[int] = (END_ID,)
    processors: Sequence[LogitProcessor] = ()
    guide: Guide | None = None
    log_probs: int | None = None

    def length(self, ids: np.ndarray) -> int | None:
        ends = np.flatnonzero(np.isin(ids, self.end_ids))
        if self.guide is not None:
            number = self.guide.length(ids[: ends[0]] if ends.size else ids)
            if number is not None:
                return number
        return int(ends[0]) if ends.size else None

    @property
    def change_logits(self) -> bool:
        return bool(self.processors) or self.guide is not None

    def process(
        self, logits: mtf.Tensor, decoded: DecodedIds, guided: Any, remaining: mtf.Tensor
    ) -> mtf.Tensor:
        """Returns logits {rows, vocab}; for `guided` and `remaining` see `Guide.mask`."""
        for processor in self.processors:
            logits = processor(logits, decoded)
        return logits if self.guide is None else self.guide.mask(logits, guided, remaining)

    def first_guided(self, mesh: mtf.Mesh, rows: mtf.ShapeLike) -> Any:
        if self.guide is None:
            return ()
        return mtf.constant(mesh, self.guide.first, rows, tf.int32)

    def advance(self, guided: Any, token: mtf.Tensor, counts: mtf.Tensor) -> Any:
        if self.guide is None:
            return ()
        after = self.guide.advance(guided, token)
        return mtf.where(counts, after, guided, output_shape=after.shape)

    def is_end(self, token: mtf.Tensor, guided: Any) -> mtf.Tensor:
        """Returns which ids {rows} end an output; guided: the guide's state after them."""
        is_end = is_one_of(token, self.end_ids)
        if self.guide is None:
            return is_end
        return mtf.logical_or(is_end, self.guide.has_ended(guided))
