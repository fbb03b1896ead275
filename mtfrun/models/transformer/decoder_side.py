"""What decoders of all models do: causal masks over whole rows, and steps over one position."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import Decoder, fitted
from mtfrun.errors import InputError
from mtfrun.layers import (
    Context,
    attention_mask_causal,
    attention_mask_same_segment,
    attention_mask_up_to,
)
from mtfrun.models.transformer.prefix import prefix_mask
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


def shift_right(
    targets: mtf.Tensor, length: mtf.Dimension, segments: mtf.Tensor | None = None
) -> mtf.Tensor:
    """Returns the targets one position later; 0 at the start of the row and of every segment.

    Teacher forcing: what a decoder reads is what it should have said one position earlier.

    Args:
      targets: {..., length} ids.
      length: the dimension.
      segments: {..., length} which packed document a position belongs to.
    """
    shifted = _shift(targets, length)
    if segments is None:
        return shifted
    same = mtf.equal(segments, _shift(segments, length))
    return mtf.where(same, shifted, 0)


def _shift(x: mtf.Tensor, length: mtf.Dimension) -> mtf.Tensor:
    # Under a name without a layout rule: what remains after the cut need not be divisible.
    x = mtf.rename_dimension(x, length.name, "shifted_length")
    x = mtf.slice(x, 0, length.size - 1, "shifted_length") if length.size > 1 else x * 0
    if length.size > 1:
        x = mtf.pad(x, [1, 0], "shifted_length")
    return mtf.rename_dimension(x, "shifted_length", length.name)


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
      reads_prompts: read the known ids at once, if all sublayers can do so; an end among them ends
        nothing.
      in_prefix: {batch..., length} bool: the positions of a prefix language model that see each
        other, all of which read known ids. It can only read them at once.

    Raises:
      InputError: a sublayer of a prefix language model cannot read them at once.
    """
    length = targets.shape.get_dim_by_name("length")
    batch = targets.shape - length
    rows = batch if beam is None else batch + beam
    if in_prefix is not None:
        _check_reads_at_once(stack, context)

    prompts = _Prompts(stack, targets, context, embed, dtype, in_prefix)

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
        return decoder(prompts.state_after(longest, known), known, length.size)

    return decoder(None, None, length.size)


@dataclasses.dataclass(frozen=True)
class _Prompts:
    """Reads prompts at once; the attributes are what `stack_decoder` is given."""

    stack: Stack
    targets: mtf.Tensor
    context: Context
    embed: Embed
    dtype: tf.DType
    in_prefix: mtf.Tensor | None

    def state_after(self, longest: int, known: mtf.Tensor) -> Any:
        """Returns the stack's state without a beam, with as much room as it takes.

        Args:
          longest: no prompt has more ids.
          known: {batch...} int32, how many each one has.
        """
        whole = self.targets.shape.get_dim_by_name("length")
        number = self._positions_read(whole, longest)
        length, memory_length = (
            mtf.Dimension(name, number) for name in ("length", "memory_length")
        )
        context = dataclasses.replace(self.context, known=known)
        if self.in_prefix is None:
            mask = causal_mask(self.targets.mesh, length, None, self.dtype)
        else:
            inside = mtf.slice(self.in_prefix, 0, number, "length")
            mask = prefix_mask(length, inside, None, self.dtype)
            context = dataclasses.replace(context, nonpadding=mtf.to_float(inside))
        context = dataclasses.replace(context, self_attention_bias=mask)
        batch = self.targets.shape - whole
        state = self.stack.initial_state(batch, memory_length, self.context)
        ids = decoder_inputs(mtf.slice(self.targets, 0, number, "length"), length, None)
        return self.stack.prefill(self.embed(ids, None), state, context)[1]

    def _positions_read(self, length: mtf.Dimension, longest: int) -> int:
        """Returns how many positions are read: the whole length where the mesh splits it.

        The position that reads a prompt's last id is the first step's, but the others of a prefix
        see it.
        """
        memory_length = mtf.Dimension("memory_length", length.size)
        if any(self.targets.mesh.num_splits(dim) > 1 for dim in (length, memory_length)):
            return length.size
        return min(longest + (self.in_prefix is not None), length.size)


def _check_reads_at_once(stack: Stack, context: Context) -> None:
    """Raises InputError if a sublayer reads positions one after the other only."""
    for sublayer in stack.blocks[0].values():
        if not sublayer.can_prefill(context):
            raise InputError(
                f"{type(sublayer.layer).__name__} reads positions one after the other only: it"
                " cannot decode in a prefix language model"
            )
