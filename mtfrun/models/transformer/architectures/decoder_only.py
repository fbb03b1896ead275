"""A decoder-only Transformer: a language model, also a prefix language model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import END_ID, Decoder, count_prompt_ids
from mtfrun.errors import InputError
from mtfrun.layers import causal_bias, prefix_bias, reads_prompts_at_once
from mtfrun.models.model import Features
from mtfrun.models.transformer.architectures.decoder_side import Embed, PromptReading, StackDecoder
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding
from mtfrun.models.transformer.tokens.token_model import (
    TokenLoss,
    TokenModel,
    is_first_id,
    shift_right,
)


class DecoderOnly(TokenModel):
    """Predicts every token from those before it.

    Features: "targets" {batch, length} int32 ids, 0 is padding and has no loss. In packed rows
    also "targets_segmentation", the number of the document that a position belongs to (documents
    do not see each other; 0 is padding before a document), and "targets_position", the position in
    it. For "targets_weights" see `TokenModel`.

    Prefix language models (Raffel et al. 2020, arXiv:1910.10683, section 3.2.1) read pairs of
    texts, rows of "inputs end targets end", packed or not: inputs see each other, also later ones.
    In rows of another form "targets_prefix" {batch, length} is not 0 at these positions.

    Args:
      stack: a class, called as `stack(mesh, d_model, dtypes)`.
      prefix: this is a prefix language model.
      shift_across_segments: a packed document's first position reads the last id of the document
        before it, as in Tensor2Tensor, instead of 0.
      loss_on_targets_only: whether inputs and their ends, in rows of pairs, have no loss; in a
        prefix language model they see the ids that they predict.
    """

    optional_features: ClassVar[Collection[str]] = (
        "targets_segmentation",
        "targets_position",
        "targets_weights",
        "targets_prefix",
    )
    pairs_needed_by: ClassVar[str] = "prefix=True or loss_on_targets_only=True"

    # Whether the padding of rows of one document belongs to the prefix.
    prefix_has_padding: ClassVar[bool] = False

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        prefix: bool = False,
        shift_across_segments: bool = False,
        loss: TokenLoss = TokenLoss(),
        loss_on_targets_only: bool = False,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__(mesh, vocabulary_size, embedding, loss, dtypes)
        self._reads_start = embedding.reads_start
        if not self._reads_start and (prefix or shift_across_segments):
            raise InputError("reads_start=False excludes prefix and shift_across_segments")
        self._prefix = prefix
        if prefix:
            self.prompt.refusal = "prefix=True, and the inputs of a prefix come first"
        self._loss_on_targets_only = loss_on_targets_only
        self._shift_across_segments = shift_across_segments
        self.decoder_stack = stack(mesh, embedding.width, dtypes)

    @property
    def reads_pairs(self) -> bool:
        return self._prefix or self._loss_on_targets_only

    @property
    def reads_prompts_at_once(self) -> bool:
        return self._prefix or reads_prompts_at_once(self.decoder_stack)

    @property
    def shares_beginnings(self) -> bool:
        stack = self.decoder_stack
        can_read = stack.can_prefill(SequenceCall()) and stack.can_step_in_blocks()
        return can_read and not self.reads_prompts_at_once and not self.prompt.length

    @property
    def logits_features(self) -> Sequence[Collection[str]]:
        return [["targets"], ["inputs"]]

    @property
    def predicts_first_id(self) -> bool:
        return self._reads_start

    def hidden(self, features: Features, call: SequenceCall) -> mtf.Tensor:
        """See `TokenModel`. Where the first id is not predicted, this is zero.

        With a feature "inputs" {batch, length} instead of targets, the model reads these ids as
        they are, and the logits are of the id after each; other features belong to the inputs then.
        """
        is_input = "inputs" in features
        targets = features["inputs" if is_input else "targets"]
        segments = features.get("targets_segmentation")
        length = targets.shape.get_dim_by_name("length")
        read = self.prompt.before_ids(targets)
        if self._prefix:
            in_prefix = features.get("targets_prefix")
            if in_prefix is None:
                in_prefix = prefix_of_delimited(
                    targets, length, with_padding=self.prefix_has_padding
                )
            bias = prefix_bias(length, in_prefix, segments)
        else:
            bias = causal_bias(
                self._mesh,
                read.shape.get_dim_by_name("length"),
                # All documents see the prompt, -1.
                None if segments is None else self.prompt.before_ids(segments, -1),
                shares_negative=bool(self.prompt.length),
            )
        call = dataclasses.replace(
            call,
            self_attention_bias=bias,
            bidirectional=self._prefix,
            nonpadding=mtf.to_float(mtf.not_equal(read, self.padding_id)),
            text_positions=self.prompt.before_positions(features.get("targets_position")),
        )
        ids = targets
        if self._reads_start and not is_input:
            within = None if self._shift_across_segments else segments
            ids = shift_right(targets, length, within, self._start_id)
        x = self._embedder(features, call)(mtf.abs(ids), features.get("targets_position"))
        x = self.prompt.after(self.decoder_stack(self.prompt.before(x), call))
        if not is_input and not self._reads_start:
            # The vector of an id predicts the next id.
            is_first = is_first_id(targets, length, segments)
            x = mtf.where(is_first, 0.0, mtf.shift(x, 1, length, wrap=False), output_shape=x.shape)
        return x

    def target_weights(self, features: Features) -> mtf.Tensor:
        targets, weights = features["targets"], super().target_weights(features)
        length = targets.shape.get_dim_by_name("length")
        if self._loss_on_targets_only:
            weights = mtf.where(is_delimited_input(targets, length), 0.0, weights)
        if self._reads_start:
            return weights
        is_first = is_first_id(targets, length, features.get("targets_segmentation"))
        return mtf.where(is_first, 0.0, weights, output_shape=weights.shape)

    def vectors(self, ids: mtf.Tensor) -> mtf.Tensor:
        return self.hidden({"inputs": ids}, SequenceCall())

    def _embedder(self, features: Features, call: SequenceCall) -> Embed:
        return functools.partial(self._embed, call=call)

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """See `TextModel`. It can read prompts in one pass, up to the padding of a row.

        In a prefix language model: inputs and their end, where "targets_prefix" is not 0.
        """
        targets = features["targets"]
        length = self._check_length(targets)
        in_prefix = None
        if self._prefix:
            # The positions that predict or read the ids of a prompt.
            number = count_prompt_ids(targets, length)
            positions = mtf.range(targets.mesh, length)
            in_prefix = mtf.less_equal(positions, number, output_shape=targets.shape)
            if "targets_prefix" in features:
                is_marked = mtf.not_equal(features["targets_prefix"], 0)
                in_prefix = mtf.logical_and(in_prefix, is_marked)
        call = SequenceCall(bidirectional=self._prefix, members=self.softmax.members)
        return StackDecoder(
            self.decoder_stack,
            targets,
            beam,
            call,
            embed=self._embedder(features, call),
            classify=self.softmax.for_steps(call),
            dtype=self._activation,
            reading=PromptReading(
                at_once=True,
                in_prefix=in_prefix,
                reads_start=self._reads_start,
                learned=self.prompt,
                start_id=self._start_id,
            ),
        ).decoder()


def is_delimited_input(targets: mtf.Tensor, length: mtf.Dimension) -> mtf.Tensor:
    """Returns {..., length} bool: whether an id belongs to inputs, their end included.

    The number of ends before inputs is even, also in packed rows.
    """
    ends = mtf.cumsum(mtf.cast(mtf.equal(targets, END_ID), tf.int32), length, exclusive=True)
    return mtf.equal(mtf.mod(ends, 2), 0)


def prefix_of_delimited(
    targets: mtf.Tensor, length: mtf.Dimension, *, with_padding: bool = False
) -> mtf.Tensor:
    """Returns {..., length} bool: the positions that see each other; see `is_delimited_input`.

    They predict inputs, or read their end and predict the first target. `with_padding`: padding
    after the last end counts as inputs do, so that all positions see it.
    """
    inside = mtf.cast(is_delimited_input(targets, length), tf.int32)
    reads_inputs = mtf.maximum(inside, mtf.shift(inside, 1, length, wrap=False))
    reads = mtf.greater(reads_inputs, 0)
    return reads if with_padding else mtf.logical_and(reads, mtf.not_equal(targets, 0))
