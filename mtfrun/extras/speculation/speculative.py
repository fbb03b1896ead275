"""Decoding with a draft: the model checks a block of proposed ids in one step.

Leviathan et al. 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318. Their rule accepts
proposals by further draws, so that outputs have the model's distribution. Here the model chooses at
every position as it does without a draft, with the same noise, and a proposal is accepted if it is
the chosen token: outputs are the same as `generate`'s. A draft model chooses with the same noise:
it agrees with a probability of at least (1 - d) / (1 + d), where d is the total variation distance
of both distributions and their rule accepts 1 - d (Daliri et al. 2024, arXiv:2408.07978). Of
proposals without a distribution, as of a look-up, both accept the same share.

Dimensions:
  batch: the rows, each at a position of its own.
  block: the positions that one step computes: one more than there are proposals to check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, Unpack

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.sampling import ChooseToken
from mtfrun.decoding.decoder import Decoder, Hypotheses, StepFunction, empty_trace, trace_of_step
from mtfrun.decoding.generate import PromptOptions, Prompts, read_prompts
from mtfrun.errors import InputError


class Proposals(NamedTuple):
    """A draft that has read the prompts.

    Attributes:
      propose: (ids {batch, length}, 0 from the position on; position {batch}, the first one without
        an id; state) -> (ids {batch, block} int32 for the positions from there on, next state).
      initial_state: state before the first proposals, a nested structure of tensors.
    """

    propose: Callable[[mtf.Tensor, mtf.Tensor, Any], tuple[mtf.Tensor, Any]]
    initial_state: Any


def with_block(
    ids: mtf.Tensor, tokens: mtf.Tensor, position: mtf.Tensor, number: mtf.Tensor | int
) -> mtf.Tensor:
    """Returns ids {batch, length} with the first `number` {batch} tokens {batch, block} written.

    Both may have more dimensions, the same ones.
    """
    length, block = (x.shape.get_dim_by_name(n) for x, n in ((ids, "length"), (tokens, "block")))
    shape = mtf.Shape([*position.shape, length])
    offset = mtf.sub(mtf.range(ids.mesh, length), position, output_shape=shape)
    is_new = mtf.logical_and(mtf.greater_equal(offset, 0), mtf.less(offset, number))
    return mtf.where(is_new, mtf.gather(tokens, offset, block), ids, output_shape=ids.shape)


Proposer: TypeAlias = Callable[[Prompts, mtf.Dimension], Proposals]
"""Returns the proposals of `block` ids a row after these prompts; only right ones save time."""


class Speculation(NamedTuple):
    """Hypotheses, and for each row {batch} int32 the numbers of ids and of the model's steps.

    A step decodes one id and the accepted proposals; an end counts.
    """

    hypotheses: Hypotheses
    tokens: mtf.Tensor
    steps: mtf.Tensor


def speculate(
    decoder: Decoder,
    prompts: mtf.Tensor,
    choose: ChooseToken,
    proposer: Proposer,
    number: int,
    **options: Unpack[PromptOptions],
) -> Speculation:
    """Returns what `generate` does, up to rounding, in fewer steps.

    Args:
      number: number of proposals that a step checks; the other arguments are as in `generate`.
    """
    if decoder.in_blocks is None:
        raise InputError(
            "a layer of the model computes one position after the other: it cannot check a draft"
        )
    start = read_prompts(decoder.in_blocks(), prompts, **options)
    block = mtf.Dimension("block", number + 1)
    assert start.decoder.within is not None
    longer = start.decoder.within(start.length.size + block.size)
    proposals = proposer(start, block)
    (last,) = mtf.while_loop(
        lambda progress: mtf.reduce_any(mtf.logical_not(progress.done)),
        lambda progress: [_advance(start, choose, proposals, longer.step, block, progress)],
        [_first(start, longer.initial_state, proposals.initial_state)],
    )
    hypotheses = Hypotheses(last.ids, last.log_probs, last.ended, last.trace)
    return Speculation(hypotheses, last.tokens, last.steps)


class _Progress(NamedTuple):
    """The loop's variables. `position` {batch}: the first position of a row without an id.

    `guided`: the guide's state before it, see `Rules`.
    """

    position: mtf.Tensor
    ids: mtf.Tensor
    log_probs: mtf.Tensor
    ended: mtf.Tensor
    done: mtf.Tensor
    tokens: mtf.Tensor
    steps: mtf.Tensor
    guided: Any
    trace: Any
    state: Any
    draft_state: Any


def _first(prompts: Prompts, state: Any, draft_state: Any) -> _Progress:
    mesh, rows = prompts.ids.mesh, prompts.limits.shape
    zeros = mtf.zeros(mesh, rows, tf.int32)
    position = prompts.lengths if prompts.read_at_once else zeros
    return _Progress(
        position=position,
        ids=prompts.ids_before(position),
        log_probs=mtf.zeros(mesh, rows),
        ended=mtf.zeros(mesh, rows, tf.bool),
        done=mtf.less_equal(prompts.limits, position),
        tokens=zeros,
        steps=zeros,
        guided=prompts.rules.first_guided(mesh, rows),
        trace=empty_trace(mesh, prompts.ids.shape, prompts.rules.log_probs),
        state=state,
        draft_state=draft_state,
    )


def _advance(
    prompts: Prompts,
    choose: ChooseToken,
    draft: Proposals,
    step: StepFunction,
    block: mtf.Dimension,
    progress: _Progress,
) -> _Progress:
    mesh, length, position = prompts.ids.mesh, prompts.length, progress.position
    shape = mtf.Shape([*position.shape, block])
    positions = mtf.add(position, mtf.range(mesh, block), output_shape=shape)
    forced = mtf.gather(prompts.ids, positions, length)
    is_forced = mtf.greater_equal(forced, 0)
    proposals, draft_state = draft.propose(progress.ids, position, progress.draft_state)
    proposals = mtf.where(is_forced, forced, proposals)
    logits, state = step(_read(progress, proposals, length, block), positions, progress.state)
    logits = mtf.to_float(logits)
    (vocab,) = logits.shape - shape
    # Positions after a wrong proposal are not taken.
    ids = with_block(progress.ids, proposals, position, block.size)
    guided = _advance_guide(prompts, progress.guided, proposals, is_forced, block)
    processed = prompts.process(logits, ids, positions, guided)
    tokens = mtf.where(is_forced, forced, choose(processed, positions))
    guided = prompts.rules.advance(guided, tokens, mtf.logical_not(is_forced))
    log_probs = mtf.gather(logits, tokens, vocab) - mtf.reduce_logsumexp(logits, vocab)
    # A row takes tokens up to the first that was not proposed or ends it.
    is_end = prompts.is_end(tokens, positions, guided)
    is_last = mtf.logical_or(mtf.not_equal(tokens, proposals), is_end)
    has_ended = mtf.cumsum(mtf.cast(is_last, tf.int32), block, exclusive=True)
    is_open = mtf.logical_and(mtf.less(positions, prompts.limits), mtf.logical_not(progress.done))
    taken = mtf.logical_and(mtf.equal(has_ended, 0), is_open)
    counts = mtf.logical_and(taken, mtf.logical_not(is_forced))
    number, decoded = (
        mtf.reduce_sum(mtf.cast(x, tf.int32), reduced_dim=block) for x in (taken, counts)
    )
    ended = mtf.reduce_any(mtf.logical_and(taken, is_end), reduced_dim=block)
    ended = mtf.logical_or(progress.ended, ended)
    reached = mtf.greater_equal(position + number, prompts.limits)
    return _Progress(
        position=position + number,
        ids=with_block(progress.ids, tokens, position, number),
        log_probs=progress.log_probs
        + mtf.reduce_sum(mtf.where(counts, log_probs, 0.0), reduced_dim=block),
        ended=ended,
        done=mtf.logical_or(ended, reached),
        tokens=progress.tokens + decoded,
        steps=progress.steps + mtf.minimum(decoded, 1),
        guided=tf.nest.map_structure(
            lambda x, old: mtf.where(mtf.greater(number, 0), mtf.gather(x, number - 1, block), old),
            guided,
            progress.guided,
        ),
        trace=tf.nest.map_structure(
            lambda new, old: with_block(old, new, position, number),
            trace_of_step(logits, tokens, progress.trace),
            progress.trace,
        ),
        state=state,
        draft_state=draft_state,
    )


def _advance_guide(
    prompts: Prompts,
    guided: Any,
    proposals: mtf.Tensor,
    is_forced: mtf.Tensor,
    block: mtf.Dimension,
) -> Any:
    """Returns the guide's states {batch, block} before each position, after what is proposed."""
    if prompts.rules.guide is None:
        return ()
    states = [guided]
    for i in range(block.size - 1):
        counts = mtf.logical_not(mtf.equal(mtf.gather(mtf.to_int32(is_forced), i, block), 1))
        token = mtf.gather(proposals, i, block)
        states.append(prompts.rules.advance(states[-1], token, counts))
    return mtf.stack(states, block.name, axis=1)


def _read(
    progress: _Progress, proposals: mtf.Tensor, length: mtf.Dimension, block: mtf.Dimension
) -> mtf.Tensor:
    """Returns the ids {batch, block} before each position of the block."""
    previous = mtf.gather(progress.ids, progress.position - 1, length)
    is_first = mtf.equal(mtf.range(proposals.mesh, block), 0)
    shifted = mtf.shift(proposals, 1, block, wrap=False)
    return mtf.where(is_first, previous, shifted, output_shape=proposals.shape)
