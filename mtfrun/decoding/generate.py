"""The loop that makes one token after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.decoder import Decoder
from mtfrun.decoding.sampling import ChooseToken

END_ID = 1


class _Progress(NamedTuple):
    """The loop's variables."""

    position: mtf.Tensor  # int32 scalar: the position to be made next
    previous: mtf.Tensor  # {batch} int32: the ids one position earlier
    ids: mtf.Tensor  # {batch, length} int32: all so far, 0 beyond
    done: mtf.Tensor  # {batch} bool
    unfinished: mtf.Tensor  # bool scalar
    state: Any


def generate(
    decoder: Decoder, prompts: mtf.Tensor, choose: ChooseToken, *, end_id: int = END_ID
) -> mtf.Tensor:
    """Returns ids {batch, length} int32: every prompt continued to its end id, 0 after that.

    Inside `mtf.function`: one compiled program then serves all prompts of one batch and length.
    It stops when all rows have ended or at `length`. To fill up a batch use rows that begin with
    `end_id`: they are done at once.

    Args:
      decoder: the model, for this batch and length.
      prompts: {batch, length} int32, of any lengths, padded on the right with 0. An id other than 0
        wins over the model's choice; an end id ends its row.
      choose: takes the logits and gives the next ids.
      end_id: the id that ends a row.
    """
    batch, length = prompts.shape
    mesh = prompts.mesh
    first = _Progress(
        position=mtf.constant(mesh, 0, dtype=tf.int32),
        previous=mtf.zeros(mesh, [batch], tf.int32),
        ids=mtf.zeros(mesh, prompts.shape, tf.int32),
        done=mtf.zeros(mesh, [batch], tf.bool),
        unfinished=mtf.ones(mesh, [], tf.bool),
        state=decoder.initial_state,
    )

    def is_unfinished(progress: _Progress) -> mtf.Tensor:
        return progress.unfinished

    def advance(progress: _Progress) -> list[_Progress]:
        position = progress.position
        logits, state = decoder.step(progress.previous, position, progress.state)
        forced = mtf.gather(prompts, position, length)
        token = mtf.where(mtf.not_equal(forced, 0), forced, choose(logits, position))
        token = mtf.where(progress.done, 0, token)
        done = mtf.logical_or(progress.done, mtf.equal(token, end_id))
        here = mtf.equal(mtf.range(mesh, length), position)
        return [
            _Progress(
                position=position + 1,
                previous=token,
                ids=mtf.where(here, token, progress.ids, output_shape=prompts.shape),
                done=done,
                unfinished=mtf.logical_and(
                    mtf.less(position, length.size - 1), mtf.logical_not(mtf.reduce_all(done))
                ),
                state=state,
            )
        ]

    (last,) = mtf.while_loop(is_unfinished, advance, [first])
    return last.ids
