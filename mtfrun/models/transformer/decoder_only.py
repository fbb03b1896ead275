"""A decoder-only Transformer: a language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.layers import Context, PositionalEmbedding
from mtfrun.models.transformer.decoder_side import causal_mask, stack_decoder
from mtfrun.models.transformer.shift import shift_right
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.token_model import PositionClass, TokenModel


class DecoderOnly(TokenModel):
    """Predicts every token from those before it.

    Features: "targets" {batch, length} int32 ids, 0 is padding and has no loss. In packed rows
    also "targets_segmentation", which document a position belongs to (documents do not see each
    other), and "targets_position", the position in its document. Without these a row is one
    document, and the step is a little cheaper.

    Args:
      stack: a class, called as `stack(mesh, d_model, dtypes)`.
      others: see `TokenModel`.
    """

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
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
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
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )
        self.decoder_stack = stack(mesh, width, dtypes)

    def decoder(self, features: Mapping[str, mtf.Tensor]) -> Decoder:
        """Returns the step function and its first state, for the shape of features["targets"].

        That is {batch..., length}, such as {batch, beam, length}.
        """
        targets = features["targets"]
        self._check_length(targets)
        return stack_decoder(
            self.decoder_stack,
            targets,
            Context(),
            embed=lambda ids, position: self._embed(self.embedding, ids, position),
            classify=self._classify,
            dtype=self._activation,
        )

    def _logits(self, features: Mapping[str, mtf.Tensor], context: Context) -> mtf.Tensor:
        targets = features["targets"]
        segments = features.get("targets_segmentation")
        length = self._check_length(targets)
        mask = causal_mask(self._mesh, length, segments, self._activation)
        context = dataclasses.replace(context, self_attention_bias=mask)
        ids = shift_right(targets, length, segments)
        x = self._embed(self.embedding, ids, features.get("targets_position"))
        return self._classify(self.decoder_stack(x, context))
