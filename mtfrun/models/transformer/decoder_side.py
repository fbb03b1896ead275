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
from mtfrun.models.transformer.shift import shift_right
from mtfrun.models.transformer.stack import Stack


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
    context: Context,
    *,
    embed: Callable[[mtf.Tensor, mtf.Tensor], mtf.Tensor],
    classify: Callable[[mtf.Tensor], mtf.Tensor],
    dtype: tf.DType,
) -> Decoder:
    """Returns a stack as a step function, and its first state.

    Args:
      stack: of causal sublayers.
      targets: {batch..., length}: only its shape is used.
      context: of all steps.
      embed: gives the vectors {batch..., d_model} of ids {batch...} at a position, a scalar.
      classify: gives the logits of the stack's output.
      dtype: of masks.
    """
    length = targets.shape.get_dim_by_name("length")
    batch = (targets.shape - length).dims

    def within(positions: int) -> Decoder:
        memory_length = mtf.Dimension("memory_length", positions)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            mask = mtf.cast(attention_mask_up_to(memory_length, position), dtype)
            here = dataclasses.replace(context, position=position, self_attention_bias=mask)
            x, state = stack.step(embed(ids, position), state, here)
            return classify(x), state

        return Decoder(step, stack.initial_state(batch, memory_length, context), within)

    return within(length.size)
