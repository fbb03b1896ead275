"""The interface of the layers that a Transformer block is a list of, and their calls."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any, Self

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import NO_BIAS, AttentionBias, Call, Layer, differentiated_field


@dataclasses.dataclass(frozen=True)
class DecodingProgress:
    """How far decoding is; by default a call is over whole sequences, without a state.

    Attributes:
      position: the position that a step computes, an int32 scalar; in blocks the consecutive
        positions {block} or {batch, block}; None in calls over whole sequences.
      prompt_lengths: {batch...} int32, how many ids of every row a `prefill` reads. The state after
        it is each row's state before this position, and a step at an earlier position leaves it
        as it is. None: steps read all ids.
      in_blocks: steps may compute blocks of positions, and a row may return to an earlier position:
        a cache is valid up to `position`, later entries are ignored.
    """

    position: mtf.Tensor | None = None
    prompt_lengths: mtf.Tensor | None = None
    in_blocks: bool = False

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
        """Returns {batch...} bool, whether a step changes a row's state; None for all rows.

        Blocks change all rows: they begin at a row's first position after its prompt, or before.
        """
        if self.position is None or self.prompt_lengths is None or self.position.shape.ndims:
            return None
        return mtf.greater_equal(self.position, self.prompt_lengths)


@dataclasses.dataclass(frozen=True)
class EncoderMemory:
    """The output {batch..., length, d_model} of an encoder, and the bias of the attention to it.

    `nonpadding` {batch..., length} float32: 1.0 for its tokens; None for no padding.
    """

    output: mtf.Tensor = differentiated_field()
    bias: AttentionBias = NO_BIAS
    nonpadding: mtf.Tensor | None = None


@dataclasses.dataclass(frozen=True)
class SequenceCall(Call):
    """One call of a Transformer, an argument of every sublayer and transform.

    Attributes:
      self_attention_bias: added to the logits of self-attention: {memory_length} in a step of
        decoding, else {length, memory_length}, with the batch dimensions where the masks of rows
        differ.
      bidirectional: whether positions see later ones; relative positions have a sign then.
      encoder: the output of an encoder, for a decoder.
      nonpadding: {batch..., length} float32, 1.0 for tokens and 0.0 for padding; None for no
        padding.
      segments: {batch..., length} int32, the documents of packed rows of an encoder, 0 for padding;
        None for rows of one document.
      text_positions: {batch..., length} int32, positions in the documents of packed rows; None for
        positions in rows.
      sublayer_input: {..., d_model}, the input of the transforms around a sublayer; None elsewhere.
      members: the dimension of an ensemble, before the batch in all vectors; None for one model.
    """

    self_attention_bias: AttentionBias = NO_BIAS
    bidirectional: bool = False
    progress: DecodingProgress = DecodingProgress()
    encoder: EncoderMemory | None = None
    nonpadding: mtf.Tensor | None = None
    segments: mtf.Tensor | None = None
    text_positions: mtf.Tensor | None = None
    sublayer_input: mtf.Tensor | None = None
    members: mtf.Dimension | None = None

    def for_step(self, step: int) -> SequenceCall:
        """Returns the call with another key, where layers are applied again: other dropout."""
        return self if self.key is None else dataclasses.replace(self, key=self.key.fold_in(step))

    def positions(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the positions {length} of x {..., length, d_model}, or a step's position."""
        if self.progress.position is not None:
            return self.progress.position
        return mtf.range(x.mesh, x.shape.get_dim_by_name("length"))


class Sublayer(Layer, abc.ABC):
    """A layer from {..., d_model} to the same shape, over whole sequences or one position a call.

    A stack makes it as `sublayer_class(mesh, d_model, dtypes)`; its other arguments have defaults.
    """

    @abc.abstractmethod
    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns the output for whole sequences; x: {..., length, d_model}."""

    def tie_to(self, first: Self) -> None:
        """Takes the parts that all blocks share from this sublayer of the first block."""

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        """Returns the state before the first position, of `step` and `prefill`: nested tensors.

        `batch`: the dimensions of x in `step`, without d_model. A tensor for one row, such as a
        cache of keys, has them all; a tensor that rows share may lack those that they share it
        over. The call has no position yet.
        """
        return ()

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Returns the output at `call.progress.position` and the next state; x: {..., d_model}.

        A layer that computes positions one by one, as this default does, has no state.
        """
        return self(x, call), state

    def can_step_in_blocks(self) -> bool:
        """Returns whether `step` computes blocks x {batch, block, d_model} of positions as well.

        It does with `call.progress.in_blocks`; see `DecodingProgress`. By default in layers without
        a state.
        """
        return type(self).initial_state is Sublayer.initial_state

    def can_prefill(self, call: SequenceCall) -> bool:
        """Returns whether the layer has a `prefill` for such calls; else steps read prompts."""
        stateless = type(self).initial_state is Sublayer.initial_state
        return stateless or type(self).prefill is not Sublayer.prefill

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Returns the output for whole sequences and the state after it; see `can_prefill`.

        The state of every row is as after steps at the positions before
        `call.progress.prompt_lengths`; later steps at these positions leave it as it is. A layer
        that computes positions one by one, as this default does, has one step for all of them.
        """
        return self.step(x, state, call)
