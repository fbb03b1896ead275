"""What decoders of all models do: causal masks over whole rows, and steps over one position."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.layers import (
    Context,
    attention_mask_causal,
    attention_mask_same_segment,
    attention_mask_up_to,
)
from mtfrun.models.transformer.prefix import number_of_known, prefix_mask, prefix_mask_up_to
from mtfrun.models.transformer.shift import shift_right
from mtfrun.models.transformer.stack import Stack

# Gives the vectors {..., d_model} of ids at a position, an int32 scalar, or at the positions 0, 1,
# ... of ids {..., length} if that is None.
Embed = Callable[[mtf.Tensor, mtf.Tensor | None], mtf.Tensor]


def causal_mask(
    mesh: mtf.Mesh, length: mtf.Dimension, segments: mtf.Tensor | None, dtype: tf.DType
) -> mtf.Tensor:
    """Returns {batch..., length, memory_length}: what came before, in the same packed document.

    Args:
      mesh: the mesh.
      length: the positions.
      segments: {batch..., length} the document of every position; without, the mask has no batch.
      dtype: of the mask.
    """
    mask = attention_mask_causal(mesh, length, mtf.Dimension("memory_length", length.size))
    if segments is not None:
        mask = attention_mask_same_segment(segments) + mask
    return mtf.cast(mask, dtype)


def decoder_inputs(
    targets: mtf.Tensor, length: mtf.Dimension, segments: mtf.Tensor | None
) -> mtf.Tensor:
    """Returns the ids {..., length} that a decoder reads: the targets one position later.

    Negative ids, which are read but not trained on, lose their sign; see `shift_right`.
    """
    return mtf.abs(shift_right(targets, length, segments))


def stack_decoder(
    stack: Stack,
    targets: mtf.Tensor,
    beam: mtf.Dimension | None,
    context: Context,
    *,
    embed: Embed,
    classify: Callable[[mtf.Tensor], mtf.Tensor],
    dtype: tf.DType,
) -> Decoder:
    """Returns a stack as a step function, and its first state.

    Args:
      stack: of causal sublayers.
      targets: {batch..., length}: only its shape is used.
      beam: of the hypotheses of a row.
      context: of all steps.
      embed: see `Embed`.
      classify: gives the logits of the stack's output.
      dtype: of masks.
    """
    length = targets.shape.get_dim_by_name("length")
    batch = _rows(targets, beam)

    def within(positions: int) -> Decoder:
        memory_length = mtf.Dimension("memory_length", positions)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            mask = mtf.cast(attention_mask_up_to(memory_length, position), dtype)
            here = dataclasses.replace(context, position=position, self_attention_bias=mask)
            x, state = stack.step(embed(ids, position), state, here)
            return classify(x), state

        return Decoder(step, stack.initial_state(batch, memory_length, context), within)

    return within(length.size)


def prefix_decoder(
    stack: Stack,
    targets: mtf.Tensor,
    beam: mtf.Dimension | None,
    in_prefix: mtf.Tensor,
    *,
    embed: Embed,
    classify: Callable[[mtf.Tensor], mtf.Tensor],
    dtype: tf.DType,
) -> Decoder:
    """Returns a stack as a step function, and the state after it has read what is known at once.

    Args:
      stack, beam, embed, classify, dtype: see `stack_decoder`.
      targets: {batch..., length} the known ids, 0 after them.
      in_prefix: {batch..., length} bool: the positions that see each other, all of which read known
        ids.
    """
    length = targets.shape.get_dim_by_name("length")
    memory_length = mtf.Dimension("memory_length", length.size)
    context = Context(bidirectional=True)
    whole = dataclasses.replace(
        context,
        self_attention_bias=prefix_mask(length, in_prefix, None, dtype),
        nonpadding=mtf.to_float(in_prefix),
    )
    empty = stack.initial_state(_rows(targets, beam), memory_length, context)
    _, first_state = stack.prefill(embed(decoder_inputs(targets, length, None), None), empty, whole)

    # A step within the prefix of a row computes what is in its state already.
    def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
        mask = mtf.cast(prefix_mask_up_to(memory_length, position, in_prefix), dtype)
        here = dataclasses.replace(context, position=position, self_attention_bias=mask)
        x, state = stack.step(embed(ids, position), state, here)
        return classify(x), state

    known = number_of_known(targets, length)
    return Decoder(step, first_state, prefilled=known, given_ends=True)


def _rows(targets: mtf.Tensor, beam: mtf.Dimension | None) -> list[mtf.Dimension]:
    """Returns the dimensions of the ids in a step."""
    batch = [dim for dim in targets.shape if dim.name != "length"]
    return batch if beam is None else [*batch, beam]
