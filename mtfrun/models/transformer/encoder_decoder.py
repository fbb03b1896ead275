"""An encoder-decoder Transformer: a sequence from a sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.layers import (
    Context,
    Embedding,
    PositionalEmbedding,
    attention_mask_ignore_padding,
    attention_mask_same_segment,
    rename_length_to_memory_length,
)
from mtfrun.models.transformer.decoder_side import causal_mask, decoder_inputs, stack_decoder
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.token_model import PositionClass, TokenModel, nonpadding


class EncoderDecoder(TokenModel):
    """Predicts every target from the inputs and the targets before it.

    Vaswani et al. 2017, arXiv:1706.03762, figure 1.

    Features: "inputs" and "targets", each {batch, length} int32 ids with a length of its own; 0 is
    padding, which nothing attends to and which has no loss. In packed rows also
    "inputs_segmentation", "inputs_position", "targets_segmentation" and "targets_position": a pair
    has the same number in both segmentations, and pairs do not see each other.

    Args:
      encoder, decoder: classes, called as `encoder(mesh, d_model, dtypes)`; the decoder's sublayers
        contain `EncoderDecoderAttention`.
      inputs_vocabulary_size: the number of input ids, whose embedding is then one of its own; None
        for one embedding of inputs and targets.
      shift_across_segments: see `DecoderOnly`.
      others: see `TokenModel`.
    """

    required_features: ClassVar[Collection[str]] = ("inputs", "targets")
    optional_features: ClassVar[Collection[str]] = (
        "inputs_segmentation",
        "inputs_position",
        "targets_segmentation",
        "targets_position",
    )

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        *,
        encoder: Callable[..., Stack],
        decoder: Callable[..., Stack],
        d_model: int = 512,
        max_length: int = 512,
        position: PositionClass | None = PositionalEmbedding,
        inputs_vocabulary_size: int | None = None,
        shift_across_segments: bool = False,
        tied_softmax: bool = True,
        vocabulary_divisor: int = 1,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        mean_over_padding: bool = False,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        width = mtf.Dimension("d_model", d_model)
        super().__init__(
            mesh,
            vocabulary_size,
            width,
            dtypes,
            max_length=max_length,
            position=position,
            tied_softmax=tied_softmax,
            vocabulary_divisor=vocabulary_divisor,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            mean_over_padding=mean_over_padding,
        )
        self._shift_across_segments = shift_across_segments
        self._inputs_vocabulary_size = inputs_vocabulary_size
        self.inputs_embedding = self.embedding
        if inputs_vocabulary_size is not None:
            inputs_vocab = self._padded(inputs_vocabulary_size)
            self.inputs_embedding = Embedding(mesh, inputs_vocab, width, dtypes)
        self.encoder_stack = encoder(mesh, width, dtypes)
        self.decoder_stack = decoder(mesh, width, dtypes)

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        """The number of ids, by the paths of the variables with a dimension "vocab"."""
        if self._inputs_vocabulary_size is None:
            return super().vocabulary_sizes
        return {**super().vocabulary_sizes, "inputs_embedding/table": self._inputs_vocabulary_size}

    def decoder(
        self, features: Mapping[str, mtf.Tensor], beam: mtf.Dimension | None = None
    ) -> Decoder:
        """Returns the step function and its first state, for the shape of features["targets"].

        With a beam, what the encoder makes is shared by the hypotheses.
        """
        self._check_length(features["targets"])
        unpacked = {name: features[name] for name in ("inputs", "targets")}
        return stack_decoder(
            self.decoder_stack,
            features["targets"],
            beam,
            self._encoded(unpacked, Context()),
            embed=lambda ids, position: self._embed(self.embedding, ids, position),
            classify=self._step_classifier(),
            dtype=self._activation,
        )

    def _logits(self, features: Mapping[str, mtf.Tensor], context: Context) -> mtf.Tensor:
        targets = features["targets"]
        segments = features.get("targets_segmentation")
        length = self._check_length(targets)
        context = dataclasses.replace(
            self._encoded(features, context),
            self_attention_bias=causal_mask(self._mesh, length, segments, self._activation),
            nonpadding=nonpadding(targets),
        )
        ids = decoder_inputs(targets, length, None if self._shift_across_segments else segments)
        x = self._embed(self.embedding, ids, features.get("targets_position"))
        return self._classify(self.decoder_stack(x, context))

    def _encoded(self, features: Mapping[str, mtf.Tensor], context: Context) -> Context:
        """Returns the decoder's context: the encoder's output and what of it may be seen."""
        inputs = features["inputs"]
        self._check_length(inputs)
        segments = features.get("inputs_segmentation")
        if segments is None:
            mask = seen = attention_mask_ignore_padding(inputs, self._activation)
        else:
            mask = attention_mask_same_segment(segments, dtype=self._activation)
            targets = features["targets_segmentation"]
            seen = attention_mask_same_segment(targets, segments, self._activation)
        inside = dataclasses.replace(
            context,
            self_attention_bias=mask,
            bidirectional=True,
            nonpadding=nonpadding(inputs),
        )
        x = self._embed(self.inputs_embedding, inputs, features.get("inputs_position"))
        output = rename_length_to_memory_length(self.encoder_stack(x, inside))
        return dataclasses.replace(context, encoder_output=output, encoder_decoder_bias=seen)
