"""The state of one call of a Transformer."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import NO_BIAS, AttentionBias, Call, differentiated_field


@dataclasses.dataclass(frozen=True)
class DecodingProgress:
    """How far decoding is; by default a call is over whole sequences, without a state.

    Attributes:
      position: the position that a step computes, an int32 scalar; None in calls over whole
        sequences.
      prompt_lengths: {batch...} int32, how many ids of every row a `prefill` reads. The state after
        it is each row's state before this position, and a step at an earlier position leaves it
        as it is. None: steps read all ids.
    """

    position: mtf.Tensor | None = None
    prompt_lengths: mtf.Tensor | None = None

    def step_position(self) -> mtf.Tensor:
        """Returns the position; an InputError if the call is not a step."""
        if self.position is None:
            raise InputError("a step of a layer with a state needs call.progress.position")
        return self.position

    def prefill_lengths(self) -> mtf.Tensor:
        """Returns `prompt_lengths`; an InputError if the call is not a prefill."""
        if self.prompt_lengths is None:
            raise InputError("a prefill needs call.progress.prompt_lengths")
        return self.prompt_lengths

    def is_after_prompt(self) -> mtf.Tensor | None:
        """Returns {batch...} bool, whether a step changes a row's state; None for all rows."""
        if self.position is None or self.prompt_lengths is None:
            return None
        return mtf.greater_equal(self.position, self.prompt_lengths)


@dataclasses.dataclass(frozen=True)
class EncoderMemory:
    """The output {batch..., length, d_model} of an encoder, and the bias of the attention to it."""

    output: mtf.Tensor = differentiated_field()
    bias: AttentionBias = NO_BIAS


@dataclasses.dataclass(frozen=True)
class SequenceCall(Call):
    """One call of a Transformer, an argument of every sublayer and transform.

    Attributes:
      self_attention_bias: added to the logits of self-attention: {memory_length} in a step of
        decoding, else {length, memory_length}, with the batch dimensions where the masks of rows
        differ.
      bidirectional: whether positions see later ones; relative positions have a sign then.
      encoder: what a decoder attends to besides itself; None without an encoder.
      nonpadding: {batch..., length} float32, 1.0 for tokens and 0.0 for padding; None for no
        padding.
      sublayer_input: {..., d_model}, the input of the transforms around a sublayer; None elsewhere.
    """

    self_attention_bias: AttentionBias = NO_BIAS
    bidirectional: bool = False
    progress: DecodingProgress = DecodingProgress()
    encoder: EncoderMemory | None = None
    nonpadding: mtf.Tensor | None = None
    sublayer_input: mtf.Tensor | None = None

    def positions(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the positions of x {..., length, d_model} {length}, or the one of a step."""
        if self.progress.position is not None:
            return self.progress.position
        return mtf.range(x.mesh, x.shape.get_dim_by_name("length"))
