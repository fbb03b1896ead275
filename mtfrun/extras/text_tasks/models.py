"""Encoders with one answer per text: labels, a number, a span."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.decoding import FORBIDDEN, Decoder
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.extras.text_tasks.text_classification_data import NumberVocabulary
from mtfrun.layers import Collector, Metric
from mtfrun.models.model import Features, Loss, Reporting
from mtfrun.models.transformer.architectures.encoder_only import EncoderOnly
from mtfrun.models.transformer.residual_transforms import TransformClass
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding
from mtfrun.models.transformer.tokens.token_model import TokenLossTerm


class AnsweringEncoder(EncoderOnly):
    """An encoder with one answer per text: a number, a set of labels, a span.

    Logits have the dimension `_labels`, the ids of answers `vocab`.

    Args:
      answers: the vocabulary of the answers.

    Attributes:
      num_logits: the number of logits per position; None for one for each label.
    """

    num_logits: ClassVar[int | None] = None
    reporting: ClassVar[Reporting] = Reporting("texts", "texts", ("loss",), with_perplexity=False)
    optional_features: ClassVar[Collection[str]] = ("inputs_types",)

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        answers: Vocabulary,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        head: Sequence[TransformClass] = (),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        num_types: int = 0,
    ) -> None:
        number = len(answers.labels) if self.num_logits is None else self.num_logits
        super().__init__(
            mesh,
            vocabulary_size,
            embedding=embedding,
            stack=stack,
            head=head,
            dtypes=dtypes,
            num_types=num_types,
            num_labels=number,
        )
        self._answers, self._number = answers, number
        self._labels, self.vocab = self.vocab, embedding.vocab(answers.size)

    def target_nats(self, features: Features) -> mtf.Tensor:
        raise InputError(
            f"{type(self).__name__} scores no targets: use `mtfrun decode`, or `mtfrun eval`"
        )

    def add_loss_term(self, term: TokenLossTerm) -> None:
        raise InputError(f"{type(self).__name__} does not support added loss terms")

    def _check_beam(self, beam: mtf.Dimension | None) -> None:
        if beam is not None:
            raise InputError(f"{type(self).__name__} has one answer: leave the beam size out")

    def _first_logits(self, features: Features, call: SequenceCall = SequenceCall()) -> mtf.Tensor:
        """Returns {batch, vocab} float32, the logits of the first position."""
        logits = self.logits(features, call)
        return mtf.gather(logits, 0, logits.shape.get_dim_by_name("length"))


class MultiLabelClassifier(AnsweringEncoder):
    """Predicts the labels of a text by a sigmoid for each, at the first position.

    Features: "inputs" {batch, length} int32 and "inputs_types" as for `EncoderOnly`, and "targets"
    {batch, length} int32: the ids of a text's labels, then `num_labels`, then -1. The logits
    {batch, length, vocab} of the first position are the log-odds of the labels.
    """

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the sum over texts with targets of the labels' mean binary cross entropy.

        "accuracy" is the fraction of texts with all labels right.
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
        """Returns a decoder of the labels with a probability above 0.5, in order."""
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


# Padding of the numbers, far from any prediction.
_NO_NUMBER = 1e9


class TextRegressor(AnsweringEncoder):
    """Predicts a number at the first position; Devlin et al. 2018, section 4.1, for STS-B of GLUE.

    Features: "inputs" {batch, length} int32 and "inputs_types" as for `EncoderOnly`, and "targets"
    {batch, length} int32: the id of a number, then -1. The first logit {batch, length, vocab} of
    the first position is the prediction.
    """

    num_logits: ClassVar[int | None] = 1
    _answers: NumberVocabulary

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        return {"loss": mtf.Shape(), **layers.metric_shapes(self)}

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the sum over rows with targets of the squared error."""
        collector = Collector()
        prediction = self._prediction(features, SequenceCall(training, key, collector))
        targets = features["targets"]
        ids = mtf.gather(targets, 0, targets.shape.get_dim_by_name("length"))
        weights = mtf.to_float(mtf.greater_equal(ids, 0))
        error = prediction - mtf.gather(self._id_numbers, mtf.maximum(ids, 0), self.vocab)
        total, weight = mtf.reduce_sum(error * error * weights), mtf.reduce_sum(weights)
        return Loss(total, weight, {"loss": Metric(total, weight)}).with_collected(collector)

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns a decoder of the number nearest to the prediction, with probability 1."""
        self._check_beam(beam)
        error = self._prediction(features) - self._id_numbers
        nearest = mtf.argmax(mtf.negative(error * error), self.vocab)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            del ids, position
            return (1.0 - mtf.one_hot(nearest, self.vocab)) * FORBIDDEN, state

        return Decoder(step, initial_state=())

    @property
    def _id_numbers(self) -> mtf.Tensor:
        numbers = np.full([self.vocab.size], _NO_NUMBER, np.float32)
        numbers[: len(self._answers.numbers)] = self._answers.numbers
        return mtf.constant(self._mesh, numbers, [self.vocab])

    def _prediction(self, features: Features, call: SequenceCall = SequenceCall()) -> mtf.Tensor:
        """Returns {batch} float32."""
        return mtf.gather(self._first_logits(features, call), 0, self._labels)


# The logits of a position: the answer begins there, or ends there.
_BEGIN, _END = range(2)


class SpanLabeler(AnsweringEncoder):
    """Predicts the first and the last position of an answer; Devlin et al. 2018, section 4.2.

    Features: "inputs" {batch, length} int32 as for `EncoderOnly`, "inputs_types" of the same shape,
    1 in the text with the answer and at its end, and "targets" {batch, length:2} int32, the two
    positions, or -1 for rows without a loss. The first two logits {batch, length, vocab} are for
    the answer's begin and end.

    Args:
      max_span: the maximum number of ids of a decoded answer.
    """

    reporting: ClassVar[Reporting] = Reporting(
        "questions", "questions", ("loss", "accuracy"), with_perplexity=False
    )
    required_features: ClassVar[Collection[str]] = ("inputs", "inputs_types", "targets")
    optional_features: ClassVar[Collection[str]] = ()
    num_logits: ClassVar[int | None] = 2

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        answers: Vocabulary,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        head: Sequence[TransformClass] = (),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        num_types: int = 0,
        max_span: int = 30,
    ) -> None:
        super().__init__(
            mesh,
            vocabulary_size,
            answers,
            embedding=embedding,
            stack=stack,
            head=head,
            dtypes=dtypes,
            num_types=num_types,
        )
        check_range("SpanLabeler.max_span", max_span, COUNT)
        self.padding_id = self._inputs_padding_id
        self._max_span = max_span

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the sum over rows of the mean cross entropy of both positions, in nats.

        "accuracy" is the fraction of rows with both positions right.
        """
        collector = Collector()
        logits = self._span_logits(features, SequenceCall(training, key, collector))
        pair = features["targets"].shape.get_dim_by_name("length")
        losses, is_right = [], []
        for scores, target in zip(logits, mtf.unstack(features["targets"], pair), strict=True):
            length = scores.shape.get_dim_by_name("length")
            weights = mtf.to_float(mtf.greater_equal(target, 0))
            target = mtf.maximum(target, 0)
            losses.append(mtf.sparse_softmax_cross_entropy(scores, target, length) * weights)
            right = mtf.equal(mtf.argmax(scores, length), target)
            is_right.append(mtf.to_float(right) * weights)
        total = mtf.reduce_sum(losses[_BEGIN] + losses[_END]) * 0.5
        weight = mtf.reduce_sum(weights)
        accuracy = mtf.reduce_sum(is_right[_BEGIN] * is_right[_END])
        metrics = {"loss": Metric(total, weight), "accuracy": Metric(accuracy, weight)}
        return Loss(total, weight, metrics).with_collected(collector)

    @property
    def logits_features(self) -> Sequence[Collection[str]]:
        return [["inputs"], ["inputs", "inputs_types"], self.required_features]

    def target_weights(self, features: Features) -> mtf.Tensor:
        return mtf.to_float(mtf.greater_equal(features["targets"], 0))

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns a decoder that copies the likeliest span; its first id has the probability."""
        self._check_beam(beam)
        inputs = features["inputs"]
        length = self._check_length(inputs)
        begin, end, log_prob = self._best_span(features)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            del ids
            place = begin + position
            copied = mtf.gather(inputs, mtf.minimum(place, length.size - 1), length)
            is_inside = mtf.less_equal(place, end)
            chosen = mtf.where(is_inside, copied, self._answers.end_id, output_shape=begin.shape)
            is_first = mtf.to_float(mtf.equal(position, 0))
            # All other ids share the remaining probability, each with less than the span.
            span_log_prob = log_prob * is_first
            remainder = 1.0 - mtf.exp(span_log_prob)
            other_log_prob = mtf.log(mtf.maximum(remainder, 1e-30) / (self.vocab.size - 1.0))
            other_log_prob = mtf.minimum(other_log_prob, span_log_prob - 1e-3)
            forbidden = FORBIDDEN * (1.0 - is_first)
            is_chosen = mtf.one_hot(chosen, self.vocab)
            log_probs = is_chosen * span_log_prob
            return log_probs + (1.0 - is_chosen) * (other_log_prob + forbidden), state

        return Decoder(step, initial_state=())

    def _span_logits(
        self, features: Features, call: SequenceCall = SequenceCall()
    ) -> list[mtf.Tensor]:
        """Returns the begin and end logits {batch, length}, FORBIDDEN at padding."""
        all_logits = self.logits(features, call)
        logits = [mtf.gather(all_logits, i, self._labels) for i in (_BEGIN, _END)]
        is_padding = mtf.to_float(mtf.equal(features["inputs"], self._inputs_padding_id))
        return [x + is_padding * FORBIDDEN for x in logits]

    def _best_span(self, features: Features) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        """Returns the first and last position {batch} int32 of the best span, and log p {batch}."""
        types = features["inputs_types"]
        length = types.shape.get_dim_by_name("length")
        is_text = mtf.to_float(types * mtf.shift(types, -1, length, wrap=False))
        begins, ends = (
            mtf.log_softmax(x, length) + (1.0 - is_text) * FORBIDDEN
            for x in self._span_logits(features)
        )
        memory_length = mtf.Dimension("memory_length", length.size)
        distance = mtf.range(types.mesh, memory_length) - mtf.range(types.mesh, length)
        is_span = mtf.logical_and(
            mtf.greater_equal(distance, 0), mtf.less(distance, self._max_span)
        )
        scores = begins + mtf.rename_dimension(ends, "length", "memory_length")
        scores = scores + mtf.to_float(mtf.logical_not(is_span)) * FORBIDDEN
        best = mtf.reduce_max(scores, reduced_dim=memory_length)
        begin = mtf.argmax(best, length)
        end = mtf.gather(mtf.argmax(scores, memory_length), begin, length)
        return begin, end, mtf.reduce_max(best, reduced_dim=length)
