"""The loss of a model of tokens."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import AT_LEAST_1, SHARE_BELOW_1, check_fields
from mtfrun.layers import Call, Metric, regularised_cross_entropy
from mtfrun.models.model import Features, Loss
from mtfrun.models.transformer.tokens.token_softmax import OutputLayer


@dataclasses.dataclass(frozen=True)
class LogitsLoss:
    """A loss of logits beside the cross entropy, such as their divergence from a teacher's.

    Attributes:
      name: the name of its metric, the mean in nats.
      divergence: takes logits {tokens..., vocab} and the tensors `by_token`, and returns nats
        {tokens...}.
      share, factor: the objective is (1 - share) * cross entropy + share * factor * divergence;
        of several losses, share is the sum of their shares in the first term.
    """

    name: str
    divergence: Callable[..., mtf.Tensor]
    by_token: Sequence[mtf.Tensor]
    share: float
    factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class AddedLoss:
    """A batch's loss besides the cross entropy of its targets.

    Attributes:
      logits_loss: a loss of the targets' logits, which exist in blocks only.
      total: a sum over targets, with its metrics.
    """

    logits_loss: LogitsLoss | None = None
    total: mtf.Tensor | None = None
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)


class TokenLossTerm(mtf.Module, abc.ABC):
    """A term of the loss of training besides the cross entropy; evaluations do not have it.

    Its variables are trained and saved with the model's.
    """

    @property
    @abc.abstractmethod
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """The metrics by name."""

    @abc.abstractmethod
    def __call__(self, x: mtf.Tensor, features: Features, weights: mtf.Tensor) -> AddedLoss:
        """Returns the term of a batch.

        x: {batch, length, d_model}, the input of the softmax; weights {batch, length} of the
        targets.
        """


@dataclasses.dataclass(frozen=True)
class TokenLoss:
    """The cross entropy of tokens, with label smoothing, and with z-loss in training.

    Attributes:
      label_smoothing: the share of the target that is spread over all ids.
      z_loss: factor of logsumexp(logits)**2.
      mean_over_padding: the step divides the loss by the number of all positions, as T5's and Mesh
        TensorFlow's programs do, instead of those that are trained on; rates of tokens then count
        all of them.
      denominator: the step divides the loss of a batch, or of a microbatch, by this number instead:
        Mesh TensorFlow's "loss_denominator", by which gradients grow with the batch.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    mean_over_padding: bool = False
    denominator: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, SHARE_BELOW_1, "label_smoothing")
        check_fields(self, AT_LEAST_1, "denominator", optional=True)
        if self.denominator is not None and self.mean_over_padding:
            raise InputError("TokenLoss has denominator and mean_over_padding: set one of them")

    @property
    def is_mean_over_targets(self) -> bool:
        """Whether the step divides the loss by the number of targets that are trained on."""
        return self.denominator is None and not self.mean_over_padding

    def __call__(
        self,
        softmax: OutputLayer,
        x: mtf.Tensor,
        targets: mtf.Tensor,
        weights: mtf.Tensor,
        call: Call,
        terms: Sequence[AddedLoss] = (),
    ) -> Loss:
        """Returns the sum of the cross entropies of targets {batch, length}, by their weights.

        x: {batch, length, d_model}, the input of the softmax. Metrics: "loss", nats per token
        without label smoothing and z-loss; "accuracy", the share of targets that no other id's
        logit exceeds; and the terms' metrics. Targets without a weight may be negative.
        """
        z_loss = self.z_loss if call.training else 0.0
        # With another divisor the total is as in Mesh TensorFlow's evaluations.
        smooths = call.training or not self.is_mean_over_targets
        label_smoothing = self.label_smoothing if smooths else 0.0
        regularised = bool(label_smoothing or z_loss)
        beside = [term.logits_loss for term in terms if term.logits_loss is not None]

        def losses(logits: mtf.Tensor, ids: mtf.Tensor, *by_token: mtf.Tensor) -> list[mtf.Tensor]:
            vocab = logits.shape.get_dim_by_name("vocab")
            cross_entropy = mtf.sparse_cross_entropy(
                logits, mtf.maximum(ids, 0), vocab, logsumexp_gradient=regularised
            )
            objective = cross_entropy.loss
            if regularised:
                objective = regularised_cross_entropy(
                    cross_entropy,
                    logits,
                    vocab,
                    num_classes=softmax.num_classes,
                    label_smoothing=label_smoothing,
                    z_loss=z_loss,
                )
            is_right = mtf.to_float(mtf.equal(cross_entropy.margin, 0.0))
            if beside:
                objective = objective * (1.0 - sum(loss.share for loss in beside))
            tensors, divergences = iter(by_token), []
            for loss in beside:
                arguments = itertools.islice(tensors, len(loss.by_token))
                divergences.append(loss.divergence(logits, *arguments))
                objective = objective + divergences[-1] * (loss.share * loss.factor)
            return [objective, cross_entropy.loss, is_right, *divergences]

        by_token = [tensor for loss in beside for tensor in loss.by_token]
        total, *values = softmax.loss(x, targets, weights, losses, call, by_token)
        weight = mtf.reduce_sum(weights)
        sums = [Metric(mtf.reduce_sum(value * weights), weight) for value in values]
        names = ["loss", "accuracy", *(loss.name for loss in beside)]
        metrics = dict(zip(names, sums, strict=True))
        for term in terms:
            metrics |= term.metrics
            total = total if term.total is None else total + term.total
        if not self.is_mean_over_targets:
            number = self.denominator or float(targets.shape.size)
            weight = mtf.constant(targets.mesh, number)
        return Loss(total, weight, metrics)
