"""Decoders of Transformers: steps over one position, and a pass that reads prompts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import Beginning, Decoder, fit_state
from mtfrun.errors import InputError
from mtfrun.layers import AttentionBias, TensorBias, causal_bias, causal_mask_at, prefix_bias
from mtfrun.models.transformer.stack import LearnedPrompt, Stack
from mtfrun.models.transformer.sublayer import DecodingProgress, SequenceCall
from mtfrun.models.transformer.tokens.token_model import shift_right

# Returns the vectors {..., d_model} of ids at a position, an int32 scalar, or at positions {block}
# or {batch, block}; where that is None, at the positions 0, 1, ... of ids {..., length}.
Embed = Callable[[mtf.Tensor, mtf.Tensor | None], mtf.Tensor]


@dataclasses.dataclass(frozen=True)
class PromptReading:
    """Settings of a decoder for reading prompts.

    Attributes:
      at_once: read prompts in one pass if all sublayers have a `prefill`; they may contain ends.
      in_prefix: {batch..., length} bool: the positions of a prefix language model that see each
        other and read ids of the prompt, in one pass only.
      reads_start: position 0 of the stack reads `start_id`, and position i the id before position i
        of the targets. Otherwise ids are read one position earlier, where they stand.
      learned: a learned prompt, at the first positions of the stack. Unless it is empty, there are
        neither beginnings nor steps in blocks.
    """

    at_once: bool = False
    in_prefix: mtf.Tensor | None = None
    reads_start: bool = True
    learned: LearnedPrompt | None = None
    start_id: int = 0

    @property
    def learned_length(self) -> int:
        return 0 if self.learned is None else self.learned.length

    @property
    def offset(self) -> int:
        """The number of ids by which steps are ahead of the positions that read them."""
        return 0 if self.reads_start else 1


@dataclasses.dataclass(frozen=True)
class StackDecoder:
    """Makes a `Decoder` of a stack: steps over one position, and a pass that reads prompts.

    `targets` {batch..., length}: the prompts, padded; unless they are read at once only the shape
    is used. `call` is for all steps, which add masks and progress. `dtype` is for masks. Of prompts
    with a `beginning` only the ids after it are read.
    """

    stack: Stack
    targets: mtf.Tensor
    beam: mtf.Dimension | None
    call: SequenceCall
    embed: Embed
    classify: Callable[[mtf.Tensor], mtf.Tensor]
    dtype: tf.DType
    reading: PromptReading = PromptReading()
    beginning: Beginning | None = None

    def decoder(self) -> Decoder:
        """Returns the decoder before position 0; an InputError if a prefix lacks a `prefill`."""
        learned, first_state = self.reading.learned, None
        if self.reading.in_prefix is not None or self.reading.learned_length:
            for sublayer in self.stack.blocks[0].values():
                if not sublayer.can_prefill(self.call):
                    who = type(sublayer.layer).__name__
                    raise InputError(f"{who} cannot read a prefix or a learned prompt at once")
        if learned is not None and learned.length:
            lengths = mtf.zeros(self.targets.mesh, self._batch, tf.int32)
            first_state = self._prefill(learned.for_rows(self._batch, self.dtype), lengths)
        return self._decoder(first_state, None, self._length.size)

    @property
    def _length(self) -> mtf.Dimension:
        return self.targets.shape.get_dim_by_name("length")

    @property
    def _batch(self) -> mtf.Shape:
        return self.targets.shape - self._length

    def _decoder(
        self, first_state: Any, prompt_lengths: mtf.Tensor | None, positions: int
    ) -> Decoder:
        """Returns the decoder of a number of positions, after `prompt_lengths` {batch...} ids."""
        learned = self.reading.learned_length
        memory_length = mtf.Dimension("memory_length", positions + learned)
        state = self._empty_state(memory_length, [] if self.beam is None else [self.beam])
        if first_state is not None:
            state = fit_state(first_state, state)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            reading = position - self.reading.offset
            place = reading + learned
            mask = causal_mask_at(place, memory_length).value(self.dtype)
            progress = self._progress(place, prompt_lengths)
            bias = AttentionBias.of(TensorBias(mask))
            call = dataclasses.replace(self.call, progress=progress, self_attention_bias=bias)
            if self.reading.start_id and self.reading.reads_start:
                start_id, is_start = self.reading.start_id, mtf.equal(reading, 0)
                ids = mtf.where(is_start, start_id, ids, output_shape=ids.shape)
            x = self.embed(ids, reading)
            x, state = self.stack.step(x, state, call)
            logits = self.classify(x)
            if not self.reading.reads_start:  # the first id has no predecessor
                logits = mtf.where(mtf.less(reading, 0), 0.0, logits, output_shape=logits.shape)
            return logits, state

        can_prefill = self.reading.at_once and self.stack.can_prefill(self.call)
        can_step_in_blocks = self.stack.can_step_in_blocks() and not learned
        return Decoder(
            step,
            state,
            functools.partial(self._decoder, first_state, prompt_lengths),
            self._after_prompts if can_prefill else None,
            prefix=self.reading.in_prefix is not None,
            ends_in_prompts=self.reading.at_once,
            in_blocks=self._in_blocks if can_step_in_blocks and self.beam is None else None,
            after=self._in_blocks if can_step_in_blocks and can_prefill else None,
        )

    def _in_blocks(self, beginning: Beginning | None = None) -> Decoder:
        progress = dataclasses.replace(self.call.progress, in_blocks=True)
        call = dataclasses.replace(self.call, progress=progress)
        beginning = beginning or self.beginning
        return dataclasses.replace(self, call=call, beginning=beginning).decoder()

    def _after_beginning(self, beginning: Beginning, prompt_lengths: mtf.Tensor) -> Decoder:
        """Returns the decoder after a beginning and the ids behind it, read in a block."""
        length, block = self._length, mtf.Dimension("block", beginning.remaining)
        reader = dataclasses.replace(self, beam=None)._decoder(None, None, length.size)
        positions = beginning.length + mtf.range(self.targets.mesh, block)
        shape = [*self._batch, block]
        ids = mtf.gather(self.targets, positions - 1, length, output_shape=shape)
        state = fit_state(beginning.state, reader.initial_state)
        _, state = reader.step(mtf.abs(ids), positions, state)
        return self._decoder(state, prompt_lengths, length.size)

    def _after_prompts(self, longest: int, prompt_lengths: mtf.Tensor) -> Decoder:
        if self.beginning is not None:
            return self._after_beginning(self.beginning, prompt_lengths)
        number = self._positions_read(longest)
        ids = mtf.slice(self.targets, 0, number, "length")
        if self.reading.reads_start:
            length = ids.shape.get_dim_by_name("length")
            ids = shift_right(ids, length, start_id=self.reading.start_id)
        x = self.embed(mtf.abs(ids), None)
        x = x if self.reading.learned is None else self.reading.learned.before(x)
        state = self._prefill(x, prompt_lengths)
        return self._decoder(state, prompt_lengths, self._length.size)

    def _prefill(self, x: mtf.Tensor, prompt_lengths: mtf.Tensor) -> Any:
        """Returns the state after x {batch..., length, d_model}, without the padding in it."""
        length = x.shape.get_dim_by_name("length")
        memory_length = mtf.Dimension("memory_length", length.size)
        progress = self._progress(None, prompt_lengths)
        if self.reading.in_prefix is None:
            bias, nonpadding = causal_bias(self.targets.mesh, length, None), None
        else:
            in_prefix = mtf.slice(self.reading.in_prefix, 0, length.size, "length")
            bias = prefix_bias(length, in_prefix, None)
            nonpadding = mtf.to_float(in_prefix)
        call = dataclasses.replace(
            self.call, progress=progress, self_attention_bias=bias, nonpadding=nonpadding
        )
        return self.stack.prefill(x, self._empty_state(memory_length, []), call)[1]

    def _empty_state(self, memory_length: mtf.Dimension, beams: Sequence[mtf.Dimension]) -> Any:
        members = [] if self.call.members is None else [self.call.members]
        batch = [*members, *self._batch, *beams]
        return self.stack.initial_state(batch, memory_length, self.call)

    def _positions_read(self, longest: int) -> int:
        """Returns how many positions are read in one pass: all where the mesh splits the length.

        The first step reads a prompt's last id, but the other positions of a prefix see it.
        """
        length = self._length
        memory_length = mtf.Dimension("memory_length", length.size)
        if any(self.targets.mesh.num_splits(dim) > 1 for dim in (length, memory_length)):
            return length.size
        return min(longest + (self.reading.in_prefix is not None), length.size)

    def _progress(
        self, position: mtf.Tensor | None, prompt_lengths: mtf.Tensor | None
    ) -> DecodingProgress:
        reading = self.reading
        if reading.learned_length and prompt_lengths is None:
            prompt_lengths = mtf.zeros(self.targets.mesh, self._batch, tf.int32)
        if prompt_lengths is not None:
            if reading.offset:
                prompt_lengths = mtf.maximum(prompt_lengths - reading.offset, 0)
            if reading.learned_length:
                prompt_lengths = prompt_lengths + reading.learned_length
        return DecodingProgress(position, prompt_lengths, self.call.progress.in_blocks)
