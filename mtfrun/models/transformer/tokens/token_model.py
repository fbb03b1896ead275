"""The base class of Transformers: models with an embedding, a softmax and a loss of tokens."""

from __future__ import annotations

import abc
from typing import final

from mtfrun import mtf
from mtfrun.layers import Call, Collector, Metric, Positions, TokenVectors, depends_on_padding
from mtfrun.models.model import Features, Loss, TextModel
from mtfrun.models.transformer.adapters import LearnedPrompt
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding
from mtfrun.models.transformer.tokens.token_loss import TokenLoss, TokenLossTerm


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
        self.position = None
        if embedding.position is not None:
            self.position = embedding.position(mesh, embedding.max_length, width, dtypes)
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

    def target_weights(self, features: Features) -> mtf.Tensor:
        weights = mtf.to_float(mtf.greater(features["targets"], self.padding_id))
        if "targets_weights" in features:
            weights = weights * mtf.to_float(features["targets_weights"])
        return weights

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
