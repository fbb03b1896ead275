"""An encoder-only Transformer: a label for every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.layers import (
    AttentionBias,
    PaddingMask,
    mask_segments,
    rename_length_to_memory_length,
    weights_nonzero,
)
from mtfrun.models.transformer.sequence_call import SequenceCall
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.token_embedding import TokenEmbedding, check_length, embed
from mtfrun.models.transformer.token_loss import TokenLoss
from mtfrun.models.transformer.token_model import TokenModel


class EncoderOnly(TokenModel):
    """Predicts the target of every position from all inputs; Devlin et al. 2018, arXiv:1810.04805.

    Features: "inputs" and "targets" {batch, length} int32 ids of one length. Input 0 is padding,
    which nothing attends to; targets of 0 have no loss, such as the targets of inputs that are not
    masked (data.MaskedLanguageModelData), or all but the first of a text that has one label
    (data.TextClassificationData). In packed rows also "inputs_segmentation" and "inputs_position".

    Args:
      stack: a class, called as `stack(mesh, d_model, dtypes)`.
    """

    required_features: ClassVar[Collection[str]] = ("inputs", "targets")
    optional_features: ClassVar[Collection[str]] = ("inputs_segmentation", "inputs_position")

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        loss: TokenLoss = TokenLoss(),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__(mesh, vocabulary_size, embedding, loss, dtypes)
        self.encoder_stack = stack(mesh, embedding.width, dtypes)

    def logits(
        self, features: Mapping[str, mtf.Tensor], call: SequenceCall = SequenceCall()
    ) -> mtf.Tensor:
        inputs = features["inputs"]
        segments = features.get("inputs_segmentation")
        bias = encoder_bias(inputs, segments)
        call = dataclasses.replace(
            call,
            self_attention_bias=bias,
            bidirectional=True,
            nonpadding=weights_nonzero(inputs),
        )
        x = embed(inputs, features.get("inputs_position"), self.embedding, self.position, call)
        return self.softmax(self.encoder_stack(x, call), call)

    def decoder(
        self, features: Mapping[str, mtf.Tensor], beam: mtf.Dimension | None = None
    ) -> Decoder:
        """Returns a decoder of the targets, which do not depend on each other.

        All are predicted from features["inputs"], which are at least as long, in one pass before
        the first step: decoding fills in the positions without an id.
        """
        check_length(features["inputs"], self.position)
        logits = self.logits(features)
        length = logits.shape.get_dim_by_name("length")

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            here = mtf.gather(logits, position, length)
            return (here if beam is None else mtf.broadcast(here, ids.shape + self.vocab)), state

        return Decoder(step, initial_state=())


def encoder_bias(inputs: mtf.Tensor, segments: mtf.Tensor | None) -> AttentionBias:
    """Returns the mask of an encoder: within documents, or without `segments` all but padding."""
    if segments is not None:
        return mask_segments(AttentionBias(), segments)
    return AttentionBias.of(PaddingMask(rename_length_to_memory_length(inputs)))
