"""An encoder that marks the answer to a question within a text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

from mtfrun import mtf
from mtfrun.decoding import FORBIDDEN, Decoder
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.extras.text_tasks.answering_encoder import AnsweringEncoder
from mtfrun.layers import Collector, Metric
from mtfrun.models.model import Features, Loss, Reporting
from mtfrun.models.transformer.residual_transforms import TransformClass
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding

# The logits of a position: that the answer begins there, and that it ends there.
_BEGIN, _END = range(2)


class SpanLabeler(AnsweringEncoder):
    """Predicts the first and the last position of an answer; Devlin et al. 2018, section 4.2.

    Features: "inputs" {batch, length} int32 as of `EncoderOnly`, "inputs_types" of the same shape,
    1 in the text that has the answer and at its end, and "targets" {batch, length:2} int32: the two
    positions, -1 for rows without a loss. The first two logits
    {batch, length, vocab} are that the answer begins there, and that it ends there.

    Args:
      end_id: ends the outputs of a decoder.
      max_span: the maximum number of ids of a decoded answer.
    """

    reporting: ClassVar[Reporting] = Reporting(
        "questions", "questions", ("loss", "accuracy"), with_perplexity=False
    )
    required_features: ClassVar[Collection[str]] = ("inputs", "inputs_types", "targets")
    optional_features: ClassVar[Collection[str]] = ()

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        end_id: int,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        head: Sequence[TransformClass] = (),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        num_types: int = 0,
        max_span: int = 30,
    ) -> None:
        super().__init__(
            mesh, vocabulary_size, 2, vocabulary_size, embedding, stack, head, dtypes, num_types
        )
        check_range("SpanLabeler.max_span", max_span, COUNT)
        self.padding_id = self._inputs_padding_id
        self._end_id, self._max_span = end_id, max_span

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the sum over rows of the mean cross entropy of both positions, in nats.

        Metrics: "loss"; "accuracy", the fraction of rows with both positions right.
        """
        collector = Collector()
        logits = self._span_logits(features, SequenceCall(training, key, collector))
        pair = features["targets"].shape.get_dim_by_name("length")
        losses, is_right = [], []
        for of_positions, target in zip(
            logits, mtf.unstack(features["targets"], pair), strict=True
        ):
            length = of_positions.shape.get_dim_by_name("length")
            weights = mtf.to_float(mtf.greater_equal(target, 0))
            target = mtf.maximum(target, 0)
            losses.append(mtf.sparse_softmax_cross_entropy(of_positions, target, length) * weights)
            right = mtf.equal(mtf.argmax(of_positions, length), target)
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
        """Returns a decoder that copies the likeliest span, whose first id has its probability."""
        self._check_beam(beam)
        inputs = features["inputs"]
        length = self._check_length(inputs)
        begin, end, log_prob = self._best_span(features)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            del ids
            place = begin + position
            copied = mtf.gather(inputs, mtf.minimum(place, length.size - 1), length)
            is_inside = mtf.less_equal(place, end)
            chosen = mtf.where(is_inside, copied, self._end_id, output_shape=begin.shape)
            is_first = mtf.to_float(mtf.equal(position, 0))
            # All other ids share the rest of the probability, and none has more than the span: the
            # best one of at most length * max_span spans, rarely less than one in all ids.
            of_span = log_prob * is_first
            remainder = 1.0 - mtf.exp(of_span)
            of_others = mtf.log(mtf.maximum(remainder, 1e-30) / (self.vocab.size - 1.0))
            of_others = mtf.minimum(of_others, of_span - 1e-3)
            forbidden = FORBIDDEN * (1.0 - is_first)
            is_chosen = mtf.one_hot(chosen, self.vocab)
            return is_chosen * of_span + (1.0 - is_chosen) * (of_others + forbidden), state

        return Decoder(step, initial_state=())

    def _span_logits(
        self, features: Features, call: SequenceCall = SequenceCall()
    ) -> list[mtf.Tensor]:
        """Returns {batch, length} twice, FORBIDDEN at padding."""
        all_logits = self.logits(features, call)
        logits = [mtf.gather(all_logits, i, self._labels) for i in (_BEGIN, _END)]
        is_padding = mtf.to_float(mtf.equal(features["inputs"], self._inputs_padding_id))
        return [x + is_padding * FORBIDDEN for x in logits]

    def _best_span(self, features: Features) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        """Returns the first and last position {batch} int32 of the best span, and log p {batch}.

        Both positions are within the text of type 1, before its end.
        """
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
