"""Beam search: the best continuations of prompts. Its dimensions: see `beam_step`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.beam_step import (
    Active,
    Candidates,
    Finished,
    first_active,
    first_finished,
    grow_active,
    grow_finished,
    grow_topk,
    is_unfinished,
    reorder_state,
)
from mtfrun.decoding.controls.rules import is_one_of
from mtfrun.decoding.decoder import (
    INFINITY,
    Decoder,
    Hypotheses,
    StepFunction,
    empty_trace,
    trace_of_step,
    write_trace,
)
from mtfrun.decoding.generate import PromptOptions, Prompts, decode_positions, read_prompts
from mtfrun.decoding.length_penalty import length_penalty, new_ids


class _Progress(NamedTuple):
    """The loop's variables.

    `previous`: ids {batch, beam} of the position before; `unfinished_rows`: bool {batch}; `guided`
    {batch, beam}: see `Rules`.
    """

    position: mtf.Tensor
    previous: mtf.Tensor
    active: Active
    finished: Finished
    unfinished_rows: mtf.Tensor
    unfinished: mtf.Tensor
    guided: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Search for the sequences of the highest log-probability, divided by a length penalty.

    Attributes:
      alpha, stop_early, as_transformers: see `Search`.
      independent_rows: do not change a row that has ended. Otherwise, as in Mesh TensorFlow, all
        rows are extended until the last has ended, and the hypotheses after the best depend on the
        rest of the batch.
      num_prefilter: see `grow_topk`.
    """

    alpha: float = 0.6
    stop_early: bool = True
    independent_rows: bool = True
    num_prefilter: int = 0
    as_transformers: bool = False

    def __call__(
        self,
        decoder: Decoder,
        prompts: mtf.Tensor,
        beam: mtf.Dimension,
        vocab: mtf.Dimension,
        **options: Unpack[PromptOptions],
    ) -> Hypotheses:
        """Returns the best continuations of every prompt; the arguments are as in `generate`.

        A prompt's ids have a log-probability of 0. `beam` must be smaller than `vocab`.
        """
        start = read_prompts(decoder, prompts, **options)
        loop = _Loop(self, start, beam, vocab)
        last = decode_positions(start, loop.first(), loop.advance)
        result = _result(last.active, last.finished, beam)
        return loop.with_ends(result) if self.as_transformers else result


@dataclasses.dataclass(frozen=True)
class _Loop:
    search: BeamSearch
    prompts: Prompts
    beam: mtf.Dimension
    vocab: mtf.Dimension

    def first(self) -> _Progress:
        batch, length = self.prompts.ids.shape
        position = self.prompts.position
        mesh, shape = self.prompts.ids.mesh, mtf.Shape([batch, self.beam, length])
        trace = empty_trace(mesh, shape, self.prompts.rules.log_probs)
        active = first_active(self.prompts.ids_before(position), self.beam)._replace(trace=trace)
        finished = first_finished(mesh, shape)._replace(trace=trace)
        unfinished_rows = self._unfinished_rows(position, active, finished)
        return _Progress(
            position=position,
            previous=mtf.broadcast(self.prompts.id_at(position - 1), [batch, self.beam]),
            active=active,
            finished=finished,
            unfinished_rows=unfinished_rows,
            unfinished=mtf.reduce_any(unfinished_rows),
            guided=self.prompts.rules.first_guided(mesh, [batch, self.beam]),
            state=(),
        )

    def advance(self, progress: _Progress, step: StepFunction) -> _Progress:
        position = progress.position
        logits, state = step(progress.previous, position, progress.state)
        candidates = grow_topk(
            position,
            progress.active,
            logits,
            vocab=self.vocab,
            penalty=length_penalty(new_ids(position + 1, self.prompts.lengths), self.search.alpha),
            end_ids=self.prompts.rules.end_ids,
            forced=self.prompts.id_at(position),
            process=self._process(progress) if self.prompts.rules.change_logits else None,
            num_prefilter=self.search.num_prefilter,
        )
        guided = self._advance_guide(progress, candidates)
        is_end = self.prompts.is_end(candidates.token, position, guided)
        candidates = candidates._replace(
            finished=is_end, trace=self._trace(logits, candidates, position)
        )
        active, chosen = grow_active(candidates, self.beam)
        ended = candidates._replace(finished=self._has_ended(candidates, position))
        finished = grow_finished(progress.finished, ended)
        if self.search.independent_rows:
            active, finished = _where(
                progress.unfinished_rows, (active, finished), (progress.active, progress.finished)
            )
        unfinished_rows = self._unfinished_rows(position + 1, active, finished)
        if self.search.independent_rows:
            unfinished_rows = mtf.logical_and(unfinished_rows, progress.unfinished_rows)
        double_beam = candidates.scores.shape[1]
        parents = mtf.gather(candidates.parents, chosen, double_beam)
        return _Progress(
            position=position + 1,
            previous=mtf.gather(candidates.token, chosen, double_beam),
            active=active,
            finished=finished,
            unfinished_rows=unfinished_rows,
            unfinished=mtf.reduce_any(unfinished_rows),
            guided=tf.nest.map_structure(lambda x: mtf.gather(x, chosen, double_beam), guided),
            state=reorder_state(state, parents, self.beam),
        )

    def _process(self, progress: _Progress) -> Callable[[mtf.Tensor], mtf.Tensor]:
        return lambda log_probs: self.prompts.process(
            log_probs, progress.active.seq, progress.position, progress.guided
        )

    def _advance_guide(self, progress: _Progress, candidates: Candidates) -> Any:
        before = tf.nest.map_structure(
            lambda x: mtf.gather(x, candidates.parents, self.beam), progress.guided
        )
        is_new = mtf.less(self.prompts.id_at(progress.position), 0)
        return self.prompts.rules.advance(before, candidates.token, is_new)

    def _trace(self, logits: mtf.Tensor, candidates: Candidates, position: mtf.Tensor) -> Any:
        if not candidates.trace:
            return ()
        logits = reorder_state(mtf.to_float(logits), candidates.parents, self.beam)
        step = trace_of_step(logits, candidates.token, candidates.trace)
        is_written = mtf.equal(mtf.range(logits.mesh, self.prompts.length), position)
        return write_trace(candidates.trace, step, is_written)

    def with_ends(self, hypotheses: Hypotheses) -> Hypotheses:
        """Returns the hypotheses; those cut off by the limit are not finished."""
        lengths, length = self.prompts.lengths, self.prompts.length
        is_new = mtf.greater_equal(
            mtf.range(lengths.mesh, length), lengths, output_shape=[*lengths.shape, length]
        )
        is_end_id = is_one_of(hypotheses.ids, self.prompts.rules.end_ids)
        has_end = mtf.reduce_any(mtf.logical_and(is_end_id, is_new), reduced_dim=length)
        return hypotheses._replace(finished=mtf.logical_and(hypotheses.finished, has_end))

    def _has_ended(self, candidates: Candidates, position: mtf.Tensor) -> mtf.Tensor:
        """Returns which candidates {batch, double_beam} may take a place of the finished beams."""
        # Continuations of the beams that start at -INFINITY must not become finished beams.
        possible = mtf.greater(candidates.log_probs, -INFINITY / 2)
        if not self.search.as_transformers:
            return mtf.logical_and(candidates.finished, possible)
        is_at_limit = mtf.greater_equal(position + 1, self.prompts.limits)
        ended = mtf.logical_or(candidates.finished, is_at_limit)
        rank = mtf.range(self.prompts.ids.mesh, candidates.scores.shape[1])
        return mtf.logical_and(mtf.logical_and(ended, possible), mtf.less(rank, self.beam.size))

    def _unfinished_rows(
        self, position: mtf.Tensor, active: Active, finished: Finished
    ) -> mtf.Tensor:
        if self.search.as_transformers:
            has_place = mtf.reduce_any(mtf.logical_not(finished.flags), reduced_dim=self.beam)
            return mtf.logical_and(mtf.less(position, self.prompts.limits), has_place)
        return is_unfinished(
            position,
            active,
            finished,
            self.prompts.limits,
            alpha=self.search.alpha,
            stop_early=self.search.stop_early,
            prompt_lengths=self.prompts.lengths,
        )


def _where(condition: mtf.Tensor, if_true: Any, if_false: Any) -> Any:
    """Returns a nested structure of tensors, chosen row by row; condition: {batch}."""
    return tf.nest.map_structure(
        lambda x, y: mtf.where(condition, x, y, output_shape=y.shape), if_true, if_false
    )


def _result(active: Active, finished: Finished, beam: mtf.Dimension) -> Hypotheses:
    any_finished = mtf.reduce_any(finished.flags, reduced_dim=beam)
    ids, scores, trace = _where(
        any_finished,
        (finished.seq, finished.scores, finished.trace),
        (active.seq, active.log_probs, active.trace),
    )
    return Hypotheses(ids, scores, finished.flags, trace)
