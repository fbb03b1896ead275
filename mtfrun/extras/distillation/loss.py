"""Distillation: the loss of a student that learns from the predictions of a trained model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import NOT_NEGATIVE, POSITIVE, SHARE, check_choice, check_fields
from mtfrun.extras.distillation.stored_logits import PARTS_OF_1, TEACHER_IDS, TEACHER_PROBABILITIES
from mtfrun.layers import Call, Metric, in_call
from mtfrun.models.model import Features
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_model import (
    AddedLoss,
    LogitsLoss,
    TokenLossTerm,
    TokenModel,
)

MEAN_SQUARE, COSINE = "mean_square", "cosine"

# Its logarithm is finite; less than the unit of stored probabilities.
_LEAST_PROBABILITY = 1e-6
# Names of metrics.
_DIVERGENCE, _DISTANCE = "distillation", "hidden_distance"


@dataclasses.dataclass(frozen=True)
class DistillationLoss:
    """The loss of a student, which learns from the predictions of a trained teacher.

    Hinton et al. 2015, arXiv:1503.02531: a step minimises, per target,

        (1 - weight) * cross entropy + weight * temperature**2 * KL(p || q),

    where p and q are the softmax of the teacher's and of the student's logits / temperature. The
    factor keeps the gradients of both terms comparable for any temperature.

    Attributes:
      temperature: divisor of the logits; above 1 the teacher's smaller probabilities matter more.
      weight: the teacher's share of the loss.
      hidden_weight: factor of an added distance between the last vectors of student and teacher;
        Romero et al. 2014, arXiv:1412.6550. A trained kernel projects the student's to another
        width.
      hidden_distance: "mean_square", over the entries of a vector, or "cosine": 1 - cosine, as in
        Sanh et al. 2019, arXiv:1910.01108.
    """

    temperature: float = 2.0
    weight: float = 0.5
    hidden_weight: float = 0.0
    hidden_distance: str = MEAN_SQUARE

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "temperature")
        check_fields(self, SHARE, "weight")
        check_fields(self, NOT_NEGATIVE, "hidden_weight")
        name = f"{type(self).__name__}.hidden_distance"
        check_choice(name, self.hidden_distance, [MEAN_SQUARE, COSINE])


def divergence(
    teacher: mtf.Tensor, student: mtf.Tensor, vocab: mtf.Dimension, temperature: float
) -> mtf.Tensor:
    """Returns KL(p || q) {...} in nats of logits {..., vocab} float32, see `DistillationLoss`.

    The teacher's logits get no gradient.
    """
    log_p = mtf.stop_gradient(mtf.log_softmax(teacher * (1.0 / temperature), vocab))
    log_q = mtf.log_softmax(student * (1.0 / temperature), vocab)
    return mtf.reduce_sum(mtf.exp(log_p) * (log_p - log_q), reduced_dim=vocab)


def top_k_divergence(
    ids: mtf.Tensor,
    probabilities: mtf.Tensor,
    student: mtf.Tensor,
    vocab: mtf.Dimension,
    temperature: float,
) -> mtf.Tensor:
    """Returns the divergence {...} in nats from a teacher of which the likeliest ids are known.

    ids: {..., top_k} int32; probabilities: {..., top_k} float32 of the teacher's logits /
    temperature; student: logits {..., vocab}. All other ids count as one, with the remaining
    probability in both models: at most `divergence`, and 0 where that is.
    """
    (top_k,) = ids.shape - (student.shape - vocab)
    scaled = student * (1.0 / temperature)
    log_q = mtf.gather(scaled, ids, vocab, output_shape=ids.shape)
    log_q = log_q - mtf.reduce_logsumexp(scaled, vocab)
    one = functools.partial(mtf.maximum, _LEAST_PROBABILITY)
    log_p = mtf.log(one(probabilities))
    terms = mtf.reduce_sum(probabilities * (log_p - log_q), reduced_dim=top_k)
    p, q = (1.0 - mtf.reduce_sum(x, reduced_dim=top_k) for x in (probabilities, mtf.exp(log_q)))
    p = mtf.maximum(p, 0.0)
    return terms + p * (mtf.log(one(p)) - mtf.log(one(q)))


class Distiller(TokenLossTerm):
    """The student's part of a distillation, with the variable of the projection.

    The teacher's variables are neither trained nor saved, and it has no dropout.

    Args:
      teacher_width: the size of the teacher's vectors, if their distance counts.
      is_stored: the teacher's predictions are features of a batch, see `top_k_divergence`.
    """

    def __init__(
        self,
        student: TokenModel,
        settings: DistillationLoss,
        teacher_width: int | None = None,
        *,
        is_stored: bool = False,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._is_stored = is_stored
        self._vocab = student.vocab
        table = student.embedding.vectors_like()
        self._d_model = table.shape[-1]
        # A function: a module in an attribute would be a part of the student.
        self._teacher: Callable[[], TokenModel] | None = None
        self.projection = None
        if settings.hidden_weight and teacher_width not in (None, self._d_model.size):
            # Another name than the student's dimension, which has another size.
            width = mtf.Dimension("teacher_width", teacher_width)
            initial = mtf.VarianceScaling()([self._d_model], [width])
            self.projection = mtf.Variable(table.mesh, [self._d_model, width], initial)

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        names = [_DIVERGENCE, *([_DISTANCE] if self._settings.hidden_weight else [])]
        return {name: mtf.Shape() for name in names}

    def teach(self, teacher: TokenModel) -> None:
        """Sets the teacher; InputError if it has other ids.

        Its variables must keep their values from the first step on.
        """
        vocab = teacher.softmax.vocab
        if vocab != self._vocab:
            raise InputError(
                f"the teacher's logits have {vocab.size} entries and the student's "
                f"{self._vocab.size}: set the same TokenEmbedding.vocabulary_divisor"
            )
        self._teacher = lambda: teacher

    def __call__(self, x: mtf.Tensor, features: Features, weights: mtf.Tensor) -> AddedLoss:
        """Metrics: "distillation", the divergence in nats, and "hidden_distance"."""
        settings = self._settings
        factors = settings.weight, settings.temperature**2
        if self._is_stored:
            stored = [features[TEACHER_IDS], features[TEACHER_PROBABILITIES]]
            return AddedLoss(LogitsLoss(_DIVERGENCE, self._stored_divergence, stored, *factors))
        if self._teacher is None:
            raise InputError("a student learns from a teacher, see Distiller.teach")
        # The model's operations are counted as the student's alone.
        with in_call(Call()), mtf.count_flops(None):
            hidden = mtf.stop_gradient(self._teacher().hidden(features, SequenceCall()))
        logits_loss = LogitsLoss(_DIVERGENCE, self._divergence, [hidden], *factors)
        if not settings.hidden_weight:
            return AddedLoss(logits_loss)
        distance = mtf.reduce_sum(self._distance(x, hidden) * weights)
        metric = Metric(distance, mtf.reduce_sum(weights))
        return AddedLoss(logits_loss, distance * settings.hidden_weight, {_DISTANCE: metric})

    def _stored_divergence(
        self, logits: mtf.Tensor, ids: mtf.Tensor, parts: mtf.Tensor
    ) -> mtf.Tensor:
        probabilities = mtf.to_float(parts) * (1.0 / PARTS_OF_1)
        return top_k_divergence(ids, probabilities, logits, self._vocab, self._settings.temperature)

    def _divergence(self, logits: mtf.Tensor, hidden: mtf.Tensor) -> mtf.Tensor:
        assert self._teacher is not None
        with in_call(Call()), mtf.count_flops(None):
            teacher_logits = self._teacher().softmax(hidden, Call())
        return divergence(teacher_logits, logits, self._vocab, self._settings.temperature)

    def _distance(self, x: mtf.Tensor, hidden: mtf.Tensor) -> mtf.Tensor:
        """Returns the distances {batch, length} of vectors {batch, length, width}, float32."""
        x, hidden, width = mtf.to_float(x), mtf.to_float(hidden), self._d_model
        if self.projection is not None:
            width = self.projection.shape[-1]
            x = mtf.einsum([x, self.projection], x.shape - self._d_model + width)
            hidden = mtf.rename_dimension(hidden, hidden.shape[-1].name, width.name)
        if self._settings.hidden_distance == MEAN_SQUARE:
            return mtf.reduce_mean(mtf.square(x - hidden), reduced_dim=width)
        squares = [mtf.reduce_sum(mtf.square(v), reduced_dim=width) for v in (x, hidden)]
        product = mtf.reduce_sum(x * hidden, reduced_dim=width)
        return 1.0 - product * mtf.rsqrt(squares[0] * squares[1] + 1e-12)
