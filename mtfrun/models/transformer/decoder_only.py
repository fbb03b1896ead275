"""A decoder-only Transformer: a language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.layers import (
    Collector,
    Context,
    Dense,
    Embedding,
    PositionalEmbedding,
    attention_mask_causal,
    attention_mask_same_segment,
    attention_mask_up_to,
    metric_shapes,
    softmax_cross_entropy_with_ids,
)
from mtfrun.models.model import Loss, Metric
from mtfrun.models.transformer.shift import shift_right
from mtfrun.models.transformer.stack import Stack


class DecoderOnly(mtf.Module):
    """Predicts every token from those before it.

    Features: "targets" {batch, length} int32 ids, 0 is padding and has no loss. In packed rows
    also "targets_segmentation", which document a position belongs to (documents do not see each
    other), and "targets_position", the position in its document. Without these a row is one
    document, and the step is a little cheaper.

    Args:
      mesh: the mesh.
      vocabulary_size: the number of ids; a multiple of the mesh axis that "vocab" is on.
      d_model: the size of the vectors between layers.
      max_length: the largest position + 1.
      stack: a class, called as `stack(mesh, d_model, dtypes)`.
      tied_softmax: the embedding is also the softmax's weights.
      label_smoothing: the share of the target that is spread over all ids, in training.
      z_loss: factor of logsumexp(logits)**2 in the loss, in training.
      dtypes: of variables and of activations.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        *,
        d_model: int = 512,
        max_length: int = 512,
        stack: Callable[..., Stack] = Stack,
        tied_softmax: bool = True,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1)")
        self._mesh = mesh
        self._activation = dtypes.activation
        self._vocab = mtf.Dimension("vocab", vocabulary_size)
        self._label_smoothing = label_smoothing
        self._z_loss = z_loss
        width = mtf.Dimension("d_model", d_model)
        self.embedding = Embedding(mesh, self._vocab, width, dtypes)
        self.position = PositionalEmbedding(mesh, max_length, width, dtypes)
        self.decoder_stack = stack(mesh, width, dtypes)
        self.softmax = (
            None if tied_softmax else Dense(mesh, [width], [self._vocab], dtypes, use_bias=False)
        )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The model's own metrics and those of its layers, such as a mixture's load."""
        return ("loss", "accuracy", *self.metric_shapes)

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        """The shapes of the metrics that may have dimensions: those of the layers."""
        return metric_shapes(self)

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        """Returns the sum of the cross entropies of all targets that are not padding.

        The losses of layers, such as a mixture's balance loss, are added. Metrics: "loss", nats per
        token without these, label smoothing and z-loss; "accuracy", the share of targets that no
        other id's logit exceeds; and what the layers measure.
        """
        targets = features["targets"]
        weights = mtf.to_float(mtf.not_equal(targets, 0))
        weight = mtf.reduce_sum(weights)
        collector = Collector()
        context = Context(training=training, key=key, nonpadding=weights, collector=collector)
        logits = self._logits(features, context)

        def mean(values: mtf.Tensor) -> Metric:
            return Metric(mtf.reduce_sum(values * weights), weight)

        plain = mean(softmax_cross_entropy_with_ids(logits, targets, self._vocab))
        trained = plain
        if training and (self._label_smoothing or self._z_loss):
            trained = mean(
                softmax_cross_entropy_with_ids(
                    logits,
                    targets,
                    self._vocab,
                    label_smoothing=self._label_smoothing,
                    z_loss=self._z_loss,
                )
            )
        accuracy = mean(mtf.to_float(self._is_right(logits, targets)))
        metrics = {"loss": plain, "accuracy": accuracy}
        metrics |= {name: Metric(*mean) for name, mean in collector.metrics().items()}
        of_layers = collector.loss()
        total = trained.total
        if of_layers is not None:
            # Means over the batch already: times its weight they are sums, as the total is.
            total = total + of_layers * weight
        return Loss(total, weight, metrics)

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        """Returns the logits {batch, length, vocab} of the targets, without noise; float32."""
        return self._logits(features, Context())

    def decoder(self, features: Mapping[str, mtf.Tensor]) -> Decoder:
        """Returns the step function and its first state, for the shape of features["targets"]."""
        batch, length = features["targets"].shape
        memory_length = mtf.Dimension("memory_length", length.size)
        self.position.check_length(length)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            mask = mtf.cast(attention_mask_up_to(memory_length, position), self._activation)
            context = Context(position=position, self_attention_bias=mask)
            x = self.embedding(ids) + self.position(position)
            x, state = self.decoder_stack.step(x, state, context)
            return self._classify(x), state

        return Decoder(step, self.decoder_stack.initial_state([batch], memory_length))

    def _logits(self, features: Mapping[str, mtf.Tensor], context: Context) -> mtf.Tensor:
        """Returns the logits of the targets in a call whose context has no mask yet."""
        targets = features["targets"]
        segments = features.get("targets_segmentation")
        positions = features.get("targets_position")
        length = targets.shape.get_dim_by_name("length")
        mask = mtf.cast(_self_attention_mask(self._mesh, length, segments), self._activation)
        context = dataclasses.replace(context, self_attention_bias=mask)
        self.position.check_length(length)
        vectors = self.position.first(length) if positions is None else self.position(positions)
        x = self.embedding(shift_right(targets, length, segments)) + vectors
        return self._classify(self.decoder_stack(x, context))

    def _classify(self, x: mtf.Tensor) -> mtf.Tensor:
        logits = self.embedding.logits(x) if self.softmax is None else self.softmax(x)
        return mtf.to_float(logits)

    def _is_right(self, logits: mtf.Tensor, targets: mtf.Tensor) -> mtf.Tensor:
        # Not argmax, which is several times slower than a maximum over a large vocabulary.
        logits = mtf.stop_gradient(logits)
        chosen = mtf.gather(logits, targets, self._vocab)
        return mtf.greater_equal(chosen, mtf.reduce_max(logits, reduced_dim=self._vocab))


def _self_attention_mask(
    mesh: mtf.Mesh, length: mtf.Dimension, segments: mtf.Tensor | None
) -> mtf.Tensor:
    """Returns the mask of a language model: what came before, in the same document."""
    memory_length = mtf.Dimension("memory_length", length.size)
    mask = attention_mask_causal(mesh, length, memory_length)
    if segments is None:
        return mask
    memory_segments = mtf.rename_dimension(segments, "length", "memory_length")
    return attention_mask_same_segment(segments, memory_segments) + mask
