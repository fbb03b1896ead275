"""An encoder that predicts any number of labels for a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.decoding import FORBIDDEN, Decoder
from mtfrun.extras.text_tasks.answering_encoder import AnsweringEncoder
from mtfrun.layers import Collector, Metric
from mtfrun.models.model import Features, Loss
from mtfrun.models.transformer.residual_transforms import TransformClass
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding


class MultiLabelClassifier(AnsweringEncoder):
    """Predicts for each label, at the first position, whether a text has it: a sigmoid for each.

    Features: "inputs" {batch, length} int32 and "inputs_types" as of `EncoderOnly`, and "targets"
    {batch, length} int32: the ids of a text's labels, then `num_labels`; all others are -1. The
    logits {batch, length, vocab} of the first position are the log-odds of the labels.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        num_labels: int,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        head: Sequence[TransformClass] = (),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        num_types: int = 0,
    ) -> None:
        # Answers also have an end, and an id that is never likeliest.
        super().__init__(
            mesh,
            vocabulary_size,
            num_labels,
            num_labels + 2,
            embedding,
            stack,
            head,
            dtypes,
            num_types,
        )
        self._number = num_labels

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        return {"loss": mtf.Shape(), "accuracy": mtf.Shape(), **layers.metric_shapes(self)}

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the sum over texts of the mean binary cross entropy of the labels.

        Rows without a target have no loss. "accuracy" is the share of texts without a wrong label.
        """
        collector = Collector()
        odds = self._first_logits(features, SequenceCall(training, key, collector))
        targets = features["targets"]
        length = targets.shape.get_dim_by_name("length")
        weights = mtf.to_float(mtf.greater_equal(mtf.gather(targets, 0, length), 0))
        is_label = mtf.less(mtf.range(self._mesh, self._labels), self._number)
        has_label = mtf.reduce_sum(mtf.one_hot(targets, self._labels), reduced_dim=length)
        has_label = mtf.where(is_label, has_label, 0.0, output_shape=odds.shape)
        nats = mtf.softplus(odds) - odds * has_label
        nats = mtf.where(is_label, nats, 0.0, output_shape=odds.shape)
        total = mtf.reduce_sum(nats * weights) / float(self._number)
        is_wrong = mtf.abs(self._is_likely(odds) - has_label)
        is_right = mtf.equal(mtf.reduce_sum(is_wrong, reduced_dim=self._labels), 0.0)
        weight = mtf.reduce_sum(weights)
        right = mtf.reduce_sum(mtf.to_float(is_right) * weights)
        metrics = {"loss": Metric(total, weight), "accuracy": Metric(right, weight)}
        return Loss(total, weight, metrics).with_collected(collector)

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns a decoder of the labels above 0.5, in order, each with its probability."""
        self._check_beam(beam)
        odds = self._first_logits(features)
        is_likely = self._is_likely(odds)
        place = mtf.cumsum(is_likely, self._labels) * is_likely
        index = mtf.to_float(mtf.range(self._mesh, self._labels))
        other = mtf.one_hot(mtf.constant(self._mesh, self._number + 1, dtype=tf.int32), self.vocab)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            del ids
            is_next = mtf.equal(place, mtf.to_float(position) + 1.0, output_shape=place.shape)
            is_next = mtf.to_float(is_next)
            has_next = mtf.reduce_sum(is_next, reduced_dim=self._labels)
            label = mtf.reduce_sum(is_next * index, reduced_dim=self._labels)
            label = mtf.cast(label + (1.0 - has_next) * self._number, tf.int32)
            next_odds = mtf.reduce_sum(is_next * odds, reduced_dim=self._labels)
            # The logits' softmax is the label's probability, or 1 for the end.
            against = has_next * mtf.negative(next_odds) + (1.0 - has_next) * FORBIDDEN
            chosen = mtf.one_hot(label, self.vocab)
            return (1.0 - chosen - other) * FORBIDDEN + other * against, state

        return Decoder(step, initial_state=())

    def _is_likely(self, odds: mtf.Tensor) -> mtf.Tensor:
        """Returns 1.0 for labels with a probability above 0.5, else 0.0."""
        is_label = mtf.less(mtf.range(self._mesh, self._labels), self._number)
        return mtf.to_float(
            mtf.logical_and(mtf.greater(odds, 0.0), is_label, output_shape=odds.shape)
        )
