"""Drafts: cheap guesses of the next ids of every row, for `speculate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.sampling import ChooseToken
from mtfrun.decoding.decoder import Decoder
from mtfrun.decoding.prompt import Prompts
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


class Draft(Protocol):
    """Proposes the ids that the model might choose; any ids do, but only right ones save time."""

    def __call__(self, prompts: Prompts, block: mtf.Dimension) -> Proposals:
        """Returns the proposals of `block` ids a row after these prompts."""


@dataclasses.dataclass(frozen=True)
class LookupDraft:
    """Proposes what followed the row's last ids where they occurred before, in prompt or output.

    The occurrence that agrees with most of the last `longest` ids counts, of these the latest one.
    Where it reaches the end of the row it is repeated. Saxena 2023, "Prompt lookup decoding",
    https://github.com/apoorvumang/prompt-lookup-decoding.
    """

    longest: int = 4

    def __call__(self, prompts: Prompts, block: mtf.Dimension) -> Proposals:
        def propose(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            return self._propose(ids, position, block), state

        return Proposals(propose, ())

    def _propose(self, ids: mtf.Tensor, position: mtf.Tensor, block: mtf.Dimension) -> mtf.Tensor:
        batch, length = ids.shape
        index = mtf.range(ids.mesh, length)
        agrees = mtf.less(index, position, output_shape=ids.shape)
        score = mtf.where(agrees, index, -1, output_shape=ids.shape)
        for distance in range(1, min(self.longest, length.size - 1) + 1):
            last = mtf.gather(ids, position - distance, length)
            same = mtf.equal(mtf.shift(ids, distance, length, wrap=False), last)
            inside = mtf.greater_equal(index, distance, output_shape=ids.shape)
            agrees = mtf.logical_and(agrees, mtf.logical_and(same, inside))
            score = score + mtf.cast(agrees, tf.int32) * length.size
        start = mtf.argmax(score, length)
        period = mtf.maximum(position - start, 1)
        offset = mtf.mod(mtf.range(ids.mesh, block), period, output_shape=[batch, block])
        return mtf.gather(ids, start + offset, length)


@dataclasses.dataclass(frozen=True)
class ModelDraft:
    """Proposes what a smaller model would choose.

    `choose` has the key and the lines of the model's choice: with the same noise both draw the same
    tokens where their distributions are alike. The logits are processed as the model's are,
    except that no guide masks them.
    """

    decoder: Decoder
    choose: ChooseToken

    def __call__(self, prompts: Prompts, block: mtf.Dimension) -> Proposals:
        if self.decoder.in_blocks is None:
            raise InputError(
                "a layer of the draft computes positions one after the other only: it can be no"
                " draft"
            )
        decoder = self.decoder.in_blocks()
        if decoder.at_once is not None and prompts.read_at_once:
            decoder = decoder.at_once(prompts.read_at_once, prompts.lengths)
        assert decoder.within is not None
        decoder = decoder.within(prompts.length.size + block.size)
        one = mtf.Dimension(block.name, 1)
        unguided = dataclasses.replace(
            prompts, rules=dataclasses.replace(prompts.rules, guide=None)
        )

        def propose(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            batch, length = ids.shape

            def advance(
                i: mtf.Tensor, previous: mtf.Tensor, proposals: mtf.Tensor, state: Any
            ) -> list[Any]:
                at = mtf.reshape(position + i, [batch, one])
                logits, state = decoder.step(mtf.reshape(previous, [batch, one]), at, state)
                written = with_block(ids, proposals, position, block.size)
                logits = unguided.process(mtf.to_float(logits), written, at, ())
                token = mtf.reshape(self.choose(logits, at), [batch])
                is_written = mtf.equal(mtf.range(ids.mesh, block), i)
                proposals = mtf.where(is_written, token, proposals, output_shape=proposals.shape)
                return [i + 1, token, proposals, state]

            # The last proposal is not checked, but the state has read the one before it.
            first = [
                mtf.constant(ids.mesh, 0, dtype=tf.int32),
                mtf.gather(ids, position - 1, length),
                mtf.zeros(ids.mesh, [batch, block], tf.int32),
                state,
            ]
            _, _, proposals, state = mtf.while_loop(
                lambda i, *_: mtf.less(i, block.size), advance, first, rounds=block.size
            )
            return proposals, state

        return Proposals(propose, decoder.initial_state)
