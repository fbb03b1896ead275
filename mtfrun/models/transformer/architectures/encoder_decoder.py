"""An encoder-decoder Transformer: a sequence from a sequence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import ClassVar

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.errors import InputError
from mtfrun.layers import (
    AttentionBias,
    PaddingMask,
    SegmentMask,
    causal_bias,
    rename_length_to_memory_length,
    weights_nonzero,
)
from mtfrun.models.model import Features
from mtfrun.models.transformer.architectures.decoder_side import PromptReading, StackDecoder
from mtfrun.models.transformer.architectures.encoder_only import encoder_call
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import EncoderMemory, SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding
from mtfrun.models.transformer.tokens.token_model import TokenLoss, TokenModel, shift_right


class EncoderDecoder(TokenModel):
    """Predicts every target from the inputs and the targets before it.

    Vaswani et al. 2017, arXiv:1706.03762, figure 1.

    Features: "inputs" and "targets", each {batch, length} int32 ids of lengths that may differ;
    `TokenEmbedding.padding_id` is padding, which is masked and has no loss. In
    packed rows also "inputs_segmentation", "inputs_position", "targets_segmentation" and
    "targets_position": a pair has the same number in both segmentations, and pairs do not see each
    other. For "targets_weights" see `TokenModel`.

    Args:
      encoder, decoder: classes, called as `encoder(mesh, d_model, dtypes)`; the decoder's sublayers
        contain `EncoderDecoderAttention`.
      inputs_vocabulary_size: the number of input ids, which then have another embedding;
        None for one embedding of inputs and targets.
      shift_across_segments: see `DecoderOnly`.
    """

    required_features: ClassVar[Collection[str]] = ("inputs", "targets")
    optional_features: ClassVar[Collection[str]] = (
        "inputs_segmentation",
        "inputs_position",
        "targets_segmentation",
        "targets_position",
        "targets_weights",
    )

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        *,
        encoder: Callable[..., Stack],
        decoder: Callable[..., Stack],
        embedding: TokenEmbedding = TokenEmbedding(),
        inputs_vocabulary_size: int | None = None,
        shift_across_segments: bool = False,
        loss: TokenLoss = TokenLoss(),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__(mesh, vocabulary_size, embedding, loss, dtypes)
        self._shift_across_segments = shift_across_segments
        self._inputs_vocabulary_size = inputs_vocabulary_size
        self.inputs_embedding = self.embedding
        if inputs_vocabulary_size is not None:
            self.inputs_embedding = embedding.make_table(
                mesh, inputs_vocabulary_size, dtypes, for_inputs=True
            )
        self.inputs_position = self.position
        if embedding.inputs_position is not None:
            self.inputs_position = embedding.make_positions(mesh, embedding.inputs_position, dtypes)
        self.encoder_stack = encoder(mesh, embedding.width, dtypes)
        self.decoder_stack = decoder(mesh, embedding.width, dtypes)
        self.tie_stacks()

    def tie_stacks(self) -> None:
        """Lets the stacks share variables, once both exist."""

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        sizes, path = super().vocabulary_sizes, "inputs_embedding/table"
        if self._inputs_vocabulary_size is not None and path in self.named_variables():
            sizes[path] = self._inputs_vocabulary_size
        return sizes

    def hidden(self, features: Features, call: SequenceCall) -> mtf.Tensor:
        targets = features["targets"]
        segments = features.get("targets_segmentation")
        length = targets.shape.get_dim_by_name("length")
        call = dataclasses.replace(
            self._encode(features, call),
            self_attention_bias=causal_bias(self._mesh, length, segments),
            nonpadding=weights_nonzero(targets),
            text_positions=features.get("targets_position"),
        )
        within = None if self._shift_across_segments else segments
        ids = shift_right(targets, length, within, self._start_id)
        x = self._embed(mtf.abs(ids), features.get("targets_position"), call)
        return self.decoder_stack(x, call)

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """See `TextModel`. The hypotheses of a beam share the encoder's output."""
        self._check_length(features["targets"])
        unpacked = {name: features[name] for name in ("inputs", "targets")}
        call = self._encode(unpacked, SequenceCall(members=self.softmax.members))
        return StackDecoder(
            self.decoder_stack,
            features["targets"],
            beam,
            call,
            embed=functools.partial(self._embed, call=call),
            classify=self.softmax.for_steps(call),
            dtype=self._activation,
            reading=PromptReading(start_id=self._start_id),
        ).decoder()

    def _encode(self, features: Features, call: SequenceCall) -> SequenceCall:
        inputs = features["inputs"]
        segments = features.get("inputs_segmentation")
        if segments is not None and self.prompt.length:
            raise InputError("an encoder's learned prompt sees its text: set --gin.PACKED=False")
        ids = self.prompt.before_ids(inputs)
        encoding = encoder_call(ids, segments, call, self.padding_id)
        memory = self.encoder_stack.output_entries(ids if segments is None else segments)
        memory = rename_length_to_memory_length(memory)
        if segments is None:
            bias = AttentionBias.of(PaddingMask(memory, self.padding_id))
        else:
            bias = AttentionBias.of(SegmentMask(features["targets_segmentation"], memory))
        positions = features.get("inputs_position")
        x = self._embed(inputs, positions, encoding, self.inputs_embedding, self.inputs_position)
        x = self.prompt.before(x)
        encoding = dataclasses.replace(encoding, text_positions=positions)
        output = self.encoder_stack(x, encoding)
        encoder = EncoderMemory(output, bias, encoding.nonpadding)
        return dataclasses.replace(call, encoder=encoder)
