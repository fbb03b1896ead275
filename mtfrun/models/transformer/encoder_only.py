"""An encoder-only Transformer: a label for every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.layers import (
    Context,
    PositionalEmbedding,
    attention_mask_ignore_padding,
    attention_mask_same_segment,
)
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.token_model import PositionClass, TokenModel, nonpadding


class EncoderOnly(TokenModel):
    """Predicts the target of every position from all inputs; Devlin et al. 2018, arXiv:1810.04805.

    Features: "inputs" and "targets" {batch, length} int32 ids of one length. Input 0 is padding,
    which nothing attends to; targets of 0 have no loss, such as those that were not masked out. In
    packed rows also "inputs_segmentation" and "inputs_position".

    Args:
      stack: a class, called as `stack(mesh, d_model, dtypes)`.
      others: see `TokenModel`.
    """

    required_features: ClassVar[Collection[str]] = ("inputs", "targets")
    optional_features: ClassVar[Collection[str]] = ("inputs_segmentation", "inputs_position")

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        *,
        d_model: int = 512,
        max_length: int = 512,
        stack: Callable[..., Stack] = Stack,
        position: PositionClass | None = PositionalEmbedding,
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
        self.encoder_stack = stack(mesh, width, dtypes)

    def decoder(
        self, features: Mapping[str, mtf.Tensor], beam: mtf.Dimension | None = None
    ) -> Decoder:
        """Raises ValueError: it makes no text."""
        raise ValueError("EncoderOnly labels what it reads and generates nothing")

    def _logits(self, features: Mapping[str, mtf.Tensor], context: Context) -> mtf.Tensor:
        inputs = features["inputs"]
        self._check_length(inputs)
        segments = features.get("inputs_segmentation")
        if segments is None:
            mask = attention_mask_ignore_padding(inputs, self._activation)
        else:
            mask = attention_mask_same_segment(segments, dtype=self._activation)
        context = dataclasses.replace(
            context, self_attention_bias=mask, bidirectional=True, nonpadding=nonpadding(inputs)
        )
        x = self._embed(self.embedding, inputs, features.get("inputs_position"))
        return self._classify(self.encoder_stack(x, context))
