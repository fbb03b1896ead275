"""The base class of Transformers, models with an embedding and a softmax of tokens; their loss."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import final

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import AT_LEAST_1, SHARE_BELOW_1, check_fields
from mtfrun.layers import (
    Call,
    Collector,
    Metric,
    Positions,
    TokenVectors,
    depends_on_padding,
    regularised_cross_entropy,
)
from mtfrun.models.model import Features, Loss, TextModel
from mtfrun.models.transformer.stack import LearnedPrompt
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding
from mtfrun.models.transformer.tokens.token_softmax import OutputLayer


class TokenModel(TextModel):
    """A model that gives every position of features["targets"] {batch, length} int32 its logits.

    Padding, id 0 unless the embedding says otherwise, has no loss, nor have negative ids: a
    decoder reads their absolute value, but is not trained to predict it. With a feature
    "targets_weights" {batch, length} int32 the loss of every target is multiplied by its weight.

    Args:
      num_labels: the number of logits, if they are of labels instead of the ids.

    Attributes:
      loss_terms: further terms of the loss in training.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        embedding: TokenEmbedding,
        loss: TokenLoss,
        dtypes: mtf.DTypePolicy,
        num_labels: int | None = None,
    ) -> None:
        super().__init__()
        self._mesh, self._activation, self._loss = mesh, dtypes.activation, loss
        self._vocabulary_size = vocabulary_size
        self._num_labels = vocabulary_size if num_labels is None else num_labels
        width = embedding.width
        self.vocab = embedding.vocab(self._num_labels)
        self.padding_id, self._start_id = embedding.padding_id, embedding.start_id
        self.loss_terms: list[TokenLossTerm] = []
        self.prompt = LearnedPrompt(mesh, width)
        self.embedding = embedding.make_table(mesh, vocabulary_size, dtypes)
        self.position = embedding.make_positions(mesh, embedding.position, dtypes)
        tied = self.embedding if embedding.tied_softmax and num_labels is None else None
        num_classes = self._num_labels if embedding.masks_padding else self.vocab.size
        self.softmax = embedding.softmax(
            mesh, num_classes, self.vocab, width, dtypes, tied=tied, logits=embedding
        )

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        shapes = {"loss": mtf.Shape(), "accuracy": mtf.Shape(), **super().metric_shapes}
        for term in self.loss_terms:
            shapes |= term.metric_shapes
        return shapes

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        sizes = {"embedding/table": self._vocabulary_size, "softmax/kernel": self._num_labels}
        variables = self.named_variables()
        # A tied softmax has no kernel, and an embedding may have several tables.
        return {path: size for path, size in sizes.items() if path in variables}

    @property
    def num_classes(self) -> int:
        return self.softmax.num_classes

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the loss of all targets that are trained on, see `TokenLoss`.

        If the step divides it by another number than theirs, evaluations have the metric
        "objective" as well: the trained loss, losses of layers included, but without z-loss.
        """
        collector = Collector()
        call = SequenceCall(training, key, collector)
        x, weights = self.hidden(features, call), self.target_weights(features)
        terms = [term(x, features, weights) for term in self.loss_terms] if training else []
        loss = self._loss(self.softmax, x, features["targets"], weights, call, terms)
        loss = loss.with_collected(collector)
        if not training and not self._loss.is_mean_over_targets:
            loss.metrics["objective"] = Metric(loss.total, loss.weight)
        return loss

    def target_weights(self, features: Features) -> mtf.Tensor:
        weights = mtf.to_float(mtf.greater(features["targets"], self.padding_id))
        if "targets_weights" in features:
            weights = weights * mtf.to_float(features["targets_weights"])
        return weights

    @abc.abstractmethod
    def hidden(self, features: Features, call: SequenceCall) -> mtf.Tensor:
        """Returns the input {batch, length, d_model} of the softmax; the call has no masks."""

    @final
    def logits(self, features: Features, call: SequenceCall = SequenceCall()) -> mtf.Tensor:
        """Returns float32 logits {batch, length, vocab} of the targets; the call has no masks."""
        return self.softmax(self.hidden(features, call), call)

    def target_nats(self, features: Features) -> mtf.Tensor:
        targets, call = features["targets"], SequenceCall()

        def losses(logits: mtf.Tensor, ids: mtf.Tensor) -> list[mtf.Tensor]:
            nats = mtf.sparse_softmax_cross_entropy(logits, mtf.maximum(ids, 0), self.vocab)
            return [nats, nats]

        weights = mtf.ones(self._mesh, targets.shape)
        _, nats = self.softmax.loss(self.hidden(features, call), targets, weights, losses, call)
        return nats

    def add_loss_term(self, term: TokenLossTerm) -> None:
        """Adds a term to the loss of training; InputError if the model has no loss of ids."""
        self.loss_terms.append(term)
        mtf.assign_paths(self)

    def allows_padding(self, length: int) -> bool:
        """Returns whether all layers ignore padding, and there are positions for the length."""
        has_positions = self.position is None or length <= self.position.max_length
        return has_positions and not depends_on_padding(self)

    def _embed(
        self,
        ids: mtf.Tensor,
        positions: mtf.Tensor | None,
        call: Call,
        embedding: TokenVectors | None = None,
        position: Positions | None = None,
    ) -> mtf.Tensor:
        """Returns vectors of ids plus vectors of positions, by default 0, 1, ... along "length".

        `embedding` and `position`: by default the model's.
        """
        x = (self.embedding if embedding is None else embedding)(ids, call)
        position = self.position if position is None else position
        if position is None:
            return x
        if positions is None:
            vectors = position.first(ids.shape.get_dim_by_name("length"))
        else:
            if "length" in ids.shape.dimension_names:
                self._check_length(ids)
            vectors = position(positions, call)
        if position.skipped_id is not None:
            has_position = mtf.not_equal(ids, position.skipped_id)
            vectors = mtf.where(has_position, vectors, 0.0, output_shape=x.shape)
        return x + vectors

    def _check_length(self, ids: mtf.Tensor) -> mtf.Dimension:
        """Returns the dimension "length"; a ShapeError if it has positions without a vector."""
        length = ids.shape.get_dim_by_name("length")
        if self.position is not None:
            self.position.check_length(length)
        return length


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

        x: the input of the softmax, `TokenModel.hidden`. Metrics: "loss", nats per token without
        label smoothing and z-loss; "accuracy", the share of targets that no other id's logit
        exceeds; and the terms' metrics.
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
        """Returns the term of a batch; x: `TokenModel.hidden`; weights: the `target_weights`."""


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


def is_first_id(
    targets: mtf.Tensor, length: mtf.Dimension, segments: mtf.Tensor | None
) -> mtf.Tensor:
    """Returns bool {length}, or {batch, length} with segments: whether a document begins there."""
    begins = mtf.equal(mtf.range(targets.mesh, length), 0)
    if segments is None:
        return begins
    changes = mtf.not_equal(segments, mtf.shift(segments, 1, length, wrap=False))
    return mtf.logical_or(changes, begins)


def shift_right(
    targets: mtf.Tensor,
    length: mtf.Dimension,
    segments: mtf.Tensor | None = None,
    start_id: int = 0,
) -> mtf.Tensor:
    """Returns the targets shifted by one, for teacher forcing; segments start with `start_id`."""
    shifted = mtf.shift(targets, 1, length, wrap=False)
    if start_id:
        begins = is_first_id(targets, length, segments)
        return mtf.where(begins, start_id, shifted, output_shape=targets.shape)
    if segments is None:
        return shifted
    same = mtf.equal(segments, mtf.shift(segments, 1, length, wrap=False))
    return mtf.where(same, shifted, 0)
