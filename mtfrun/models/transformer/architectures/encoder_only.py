"""An encoder-only Transformer: a label for every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.errors import InputError
from mtfrun.layers import (
    AttentionBias,
    Embedding,
    PaddingMask,
    mask_segments,
    rename_length_to_memory_length,
)
from mtfrun.models.model import Features
from mtfrun.models.transformer.residual_transforms import TransformClass, add_transforms
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding
from mtfrun.models.transformer.tokens.token_model import TokenLoss, TokenModel


class EncoderOnly(TokenModel):
    """Predicts the target of every position from all inputs; Devlin et al. 2018, arXiv:1810.04805.

    Features: "inputs" and "targets" {batch, length} int32 ids of one length. Inputs of
    `TokenEmbedding.padding_id` are padding, which is masked; such targets have no loss, for example
    at inputs that are not masked (data.MaskedLanguageModelData), or all but the first of a text
    that has one label (text_tasks.TextClassificationData). In packed rows also
    "inputs_segmentation" and "inputs_position". For "targets_weights" see `TokenModel`.

    Args:
      stack: a class, called as `stack(mesh, d_model, dtypes)`.
      head: transforms between the stack and the softmax, see `StackTransforms`; their variables are
        named "head_dense/kernel". `vectors` are without them.
      num_types: types of inputs, such as the first and the second text of a pair: "inputs_types"
        {batch, length} int32 from 0 on, by default 0; larger ones are the last type. A trained
        vector of the type is added to each input's. 0: no types.
      num_labels: targets are labels from 0 on, padded with -1, with a softmax of their own;
        None: they are ids like the inputs.
    """

    required_features: ClassVar[Collection[str]] = ("inputs", "targets")
    optional_features: ClassVar[Collection[str]] = (
        "inputs_segmentation",
        "inputs_position",
        "inputs_types",
        "targets_weights",
    )

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        head: Sequence[TransformClass] = (),
        loss: TokenLoss = TokenLoss(),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        num_types: int = 0,
        num_labels: int | None = None,
    ) -> None:
        super().__init__(mesh, vocabulary_size, embedding, loss, dtypes, num_labels)
        self.prompt.refusal = "it predicts a label for every vector that it reads"
        self._inputs_padding_id = embedding.padding_id
        if num_labels is not None:
            self.padding_id = -1
        self.types, self._num_types = None, num_types
        if num_types:
            self.types = Embedding(mesh, mtf.Dimension("types", num_types), embedding.width, dtypes)
        self.encoder_stack = stack(mesh, embedding.width, dtypes)
        self._head = add_transforms(self, head, mesh, embedding.width, dtypes, prefix="head_")

    @property
    def logits_features(self) -> Sequence[Collection[str]]:
        return [["inputs"], self.required_features]

    def padding_of(self, feature: str) -> int:
        paddings = {"inputs": self._inputs_padding_id, "targets": self.padding_id}
        return paddings.get(feature, 0)

    def hidden(self, features: Features, call: SequenceCall) -> mtf.Tensor:
        call = self._encoder_call(features, call)
        x = self._encode(features, call)
        number = x.shape.get_dim_by_name("length").size
        if number != features["inputs"].shape.get_dim_by_name("length").size:
            raise InputError(f"EncoderOnly has a target for every input, its stack only {number}")
        for name in self._head:
            x = getattr(self, name)(x, call)
        return x

    def vectors(self, ids: mtf.Tensor) -> mtf.Tensor:
        features = {"inputs": ids}
        return self._encode(features, self._encoder_call(features, SequenceCall()))

    def _encoder_call(self, features: Features, call: SequenceCall) -> SequenceCall:
        segments = features.get("inputs_segmentation")
        return encoder_call(features["inputs"], segments, call, self._inputs_padding_id)

    def _encode(self, features: Features, call: SequenceCall) -> mtf.Tensor:
        inputs = features["inputs"]
        x = self._embed(inputs, features.get("inputs_position"), call)
        if self.types is not None:
            types = features.get("inputs_types")
            types = mtf.zeros(inputs.mesh, inputs.shape, tf.int32) if types is None else types
            x = x + self.types(mtf.minimum(types, self._num_types - 1), call)
        call = dataclasses.replace(call, text_positions=features.get("inputs_position"))
        return self.encoder_stack(x, call)

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns a decoder of the targets, all predicted in one pass before the first step.

        features["inputs"] are at least as long. Decoding fills in the positions without an id.
        """
        self._check_length(features["inputs"])
        logits = self.logits(features)
        length = logits.shape.get_dim_by_name("length")

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            entry = mtf.gather(logits, position, length)
            return (entry if beam is None else mtf.broadcast(entry, ids.shape + self.vocab)), state

        return Decoder(step, initial_state=())


def encoder_call(
    inputs: mtf.Tensor, segments: mtf.Tensor | None, call: SequenceCall, padding_id: int
) -> SequenceCall:
    """Returns the call of an encoder: it sees documents, or without `segments` all but padding."""
    if segments is not None:
        bias = mask_segments(AttentionBias(), segments)
    else:
        bias = AttentionBias.of(PaddingMask(rename_length_to_memory_length(inputs), padding_id))
    return dataclasses.replace(
        call,
        self_attention_bias=bias,
        bidirectional=True,
        nonpadding=mtf.to_float(mtf.not_equal(inputs, padding_id)),
        segments=segments,
    )
