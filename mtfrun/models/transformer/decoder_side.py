"""What decoders of all models do: causal masks over whole rows, and steps over one position."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import Decoder, fitted
from mtfrun.layers import (
    Context,
    attention_mask_causal,
    attention_mask_same_segment,
    attention_mask_up_to,
)
from mtfrun.models.transformer.prefix import prefix_mask
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
    reads_prompts: bool = False,
    in_prefix: mtf.Tensor | None = None,
) -> Decoder:
    """Returns a stack as a step function, its first state, and how it reads prompts at once.

    Args:
      stack: of causal sublayers.
      targets: {batch..., length} the known ids, 0 after them; without `reads_prompts` only their
        shape is used.
      beam: of the hypotheses of a row.
      context: of all steps.
      embed: see `Embed`.
      classify: gives the logits of the stack's output.
      dtype: of masks.
      reads_prompts: read the known ids at once, if all sublayers can do so.
      in_prefix: {batch..., length} bool: the positions of a prefix language model that see each
        other, all of which read known ids. It can only read them at once.

    Raises:
      ValueError: a sublayer of a prefix language model cannot read them at once.
    """
    length = targets.shape.get_dim_by_name("length")
    batch = [dim for dim in targets.shape if dim != length]
    rows = batch if beam is None else [*batch, beam]
    if in_prefix is not None:
        _check_reads_at_once(stack, context)

    def read(longest: int, known: mtf.Tensor) -> Any:
        """Returns the state without a beam, with as much room as it takes."""
        number = _positions_read(targets.mesh, length, longest, in_prefix is not None)
        part, memory_length = (mtf.Dimension(name, number) for name in ("length", "memory_length"))
        whole = dataclasses.replace(context, known=known)
        if in_prefix is None:
            mask = causal_mask(targets.mesh, part, None, dtype)
        else:
            inside = mtf.slice(in_prefix, 0, number, length.name)
            mask = prefix_mask(part, inside, None, dtype)
            whole = dataclasses.replace(whole, nonpadding=mtf.to_float(inside))
        whole = dataclasses.replace(whole, self_attention_bias=mask)
        ids = decoder_inputs(mtf.slice(targets, 0, number, length.name), part, None)
        empty = stack.initial_state(batch, memory_length, context)
        return stack.prefill(embed(ids, None), empty, whole)[1]

    def decoder(first_state: Any, known: mtf.Tensor | None, positions: int) -> Decoder:
        memory_length = mtf.Dimension("memory_length", positions)
        state = stack.initial_state(rows, memory_length, context)
        if first_state is not None:
            state = fitted(first_state, state)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            mask = mtf.cast(attention_mask_up_to(memory_length, position), dtype)
            here = dataclasses.replace(
                context, position=position, known=known, self_attention_bias=mask
            )
            x, state = stack.step(embed(ids, position), state, here)
            return classify(x), state

        return Decoder(
            step,
            state,
            functools.partial(decoder, first_state, known),
            at_once if reads_prompts and stack.can_prefill(context) else None,
            prefix=in_prefix is not None,
            given_ends=reads_prompts,
        )

    def at_once(longest: int, known: mtf.Tensor) -> Decoder:
        return decoder(read(longest, known), known, length.size)

    return decoder(None, None, length.size)


def _check_reads_at_once(stack: Stack, context: Context) -> None:
    """Raises ValueError if a sublayer reads positions one after the other only."""
    for sublayer in stack.blocks[0].values():
        if not sublayer.can_prefill(context):
            raise ValueError(
                f"{type(sublayer.layer).__name__} reads positions one after the other only: it"
                " cannot decode in a prefix language model"
            )


def _positions_read(
    mesh: mtf.Mesh, length: mtf.Dimension, longest_prompt: int, with_last: bool
) -> int:
    """Returns how many positions are read at once: the whole length where a mesh splits it.

    The position that reads a prompt's last id is that of a step, but `with_last`.
    """
    memory_length = mtf.Dimension("memory_length", length.size)
    if mesh.num_splits(length) > 1 or mesh.num_splits(memory_length) > 1:
        return length.size
    return min(longest_prompt + with_last, length.size)
