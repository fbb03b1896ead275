"""An encoder-only Transformer: a label for every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
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
from mtfrun.models.model import Features
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.token_embedding import TokenEmbedding
from mtfrun.models.transformer.token_loss import TokenLoss
from mtfrun.models.transformer.token_model import TokenModel


class EncoderOnly(TokenModel):
    """Predicts the target of every position from all inputs; Devlin et al. 2018, arXiv:1810.04805.

    Features: "inputs" and "targets" {batch, length} int32 ids of one length. Input 0 is padding,
    which nothing attends to; targets of 0 have no loss, such as the targets of inputs that are not
    masked (data.MaskedLanguageModelData), or all but the first of a text that has one label
    (data.TextClassificationData). In packed rows also "inputs_segmentation" and "inputs_position".
    For "targets_weights" see `TokenModel`.

    Args:
      stack: a class, called as `stack(mesh, d_model, dtypes)`.
    """

    required_features: ClassVar[Collection[str]] = ("inputs", "targets")
    optional_features: ClassVar[Collection[str]] = (
        "inputs_segmentation",
        "inputs_position",
        "targets_weights",
    )

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

    @property
    def cannot_read_prompt(self) -> str:
        return "it predicts a label for every vector that it reads"

    def hidden(self, features: Features, call: SequenceCall) -> mtf.Tensor:
        inputs = features["inputs"]
        call = encoder_call(inputs, features.get("inputs_segmentation"), call)
        x = self._embed(inputs, features.get("inputs_position"), call)
        return self.encoder_stack(x, call)

    def vectors(self, ids: mtf.Tensor) -> mtf.Tensor:
        return self.hidden({"inputs": ids}, SequenceCall())

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns a decoder of the targets, which do not depend on each other.

        All are predicted from features["inputs"], which are at least as long, in one pass before
        the first step: decoding fills in the positions without an id.
        """
        self._check_length(features["inputs"])
        logits = self.logits(features)
        length = logits.shape.get_dim_by_name("length")

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            here = mtf.gather(logits, position, length)
            return (here if beam is None else mtf.broadcast(here, ids.shape + self.vocab)), state

        return Decoder(step, initial_state=())


def encoder_call(
    inputs: mtf.Tensor, segments: mtf.Tensor | None, call: SequenceCall
) -> SequenceCall:
    """Returns the call of an encoder: it sees documents, or without `segments` all but padding."""
    if segments is not None:
        bias = mask_segments(AttentionBias(), segments)
    else:
        bias = AttentionBias.of(PaddingMask(rename_length_to_memory_length(inputs)))
    return dataclasses.replace(
        call,
        self_attention_bias=bias,
        bidirectional=True,
        nonpadding=weights_nonzero(inputs),
    )
