"""What all models of tokens share: embeddings, softmax and loss."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping

import numpy as np

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import (
    MASKED,
    Collector,
    Context,
    Dense,
    Embedding,
    PositionalEmbedding,
    SinusoidPositions,
    metric_shapes,
    regularised_cross_entropy,
)
from mtfrun.models.model import Loss, Metric, TextModel

# Made as `position_class(mesh, max_length, d_model, dtypes)`.
PositionClass = Callable[..., PositionalEmbedding | SinusoidPositions]

# Softmax weights of so many entries are turned for decoding, see `TokenModel._step_classifier`.
TURNED_FROM = 2**23


class TokenModel(TextModel):
    """A model that gives every position of features["targets"] {batch, length} int32 its logits.

    Id 0 is padding and has no loss. Negative ids have none either: a decoder reads their absolute
    value, but does not learn to say it.

    Args:
      mesh: the mesh.
      vocabulary_size: the number of ids.
      d_model: the size of the vectors between layers.
      max_length: the largest position + 1.
      position: a class, called as `position(mesh, max_length, d_model, dtypes)`, whose vectors are
        added to those of the ids; None for a model whose attention knows positions.
      tied_softmax: the embedding is also the softmax's weights.
      vocabulary_divisor: "vocab", the dimension of the embedding and the logits, has this multiple
        that is next to the number of ids, so that a mesh axis divides it. The logits beyond the
        last id are too low to be predicted and take no part in the loss.
      label_smoothing: the share of the target that is spread over all ids, in training.
      z_loss: factor of logsumexp(logits)**2 in the loss, in training.
      mean_over_padding: the step divides the loss by the number of all positions, as T5's and Mesh
        TensorFlow's programs do, instead of those that are trained on; rates of tokens then count
        all of them. A batch with much padding teaches less, and Adam's epsilon weighs more.
      dtypes: of variables and of activations.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        *,
        max_length: int,
        position: PositionClass | None,
        tied_softmax: bool,
        vocabulary_divisor: int,
        label_smoothing: float,
        z_loss: float,
        mean_over_padding: bool,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise InputError(f"label_smoothing={label_smoothing} must be in [0, 1)")
        if vocabulary_divisor < 1:
            raise InputError(f"vocabulary_divisor={vocabulary_divisor} must be at least 1")
        self._mesh = mesh
        self._d_model = d_model
        self._activation = dtypes.activation
        self._vocabulary_divisor = vocabulary_divisor
        self._vocabulary_size = vocabulary_size
        self.vocab = self._padded(vocabulary_size)
        self._label_smoothing = label_smoothing
        self._z_loss = z_loss
        self._mean_over_padding = mean_over_padding
        self.embedding = Embedding(mesh, self.vocab, d_model, dtypes)
        self.position = None if position is None else position(mesh, max_length, d_model, dtypes)
        self.softmax = (
            None if tied_softmax else Dense(mesh, [d_model], [self.vocab], dtypes, use_bias=False)
        )

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        """The model's own metrics and those of its layers, such as a mixture's load."""
        return {"loss": mtf.Shape(), "accuracy": mtf.Shape(), **metric_shapes(self)}

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        """Returns the sum of the cross entropies of all targets that are trained on.

        The losses of layers, such as a mixture's balance loss, are added. Metrics: "loss", nats per
        token without these, label smoothing and z-loss; "accuracy", the share of targets that no
        other id's logit exceeds; and what the layers measure.
        """
        targets = features["targets"]
        collector = Collector()
        logits = self._logits(features, Context(training=training, key=key, collector=collector))
        weights = self.target_weights(features)
        targets = mtf.maximum(targets, 0)
        weight = mtf.reduce_sum(weights)

        def mean(values: mtf.Tensor) -> Metric:
            return Metric(mtf.reduce_sum(values * weights), weight)

        regularised = training and bool(self._label_smoothing or self._z_loss)
        found = mtf.sparse_cross_entropy(
            logits, targets, self.vocab, logsumexp_gradient=regularised
        )
        plain = mean(found.loss)
        trained = plain
        if regularised:
            trained = mean(
                regularised_cross_entropy(
                    found,
                    logits,
                    self.vocab,
                    num_classes=self._vocabulary_size,
                    label_smoothing=self._label_smoothing,
                    z_loss=self._z_loss,
                )
            )
        accuracy = mean(mtf.to_float(mtf.equal(found.margin, 0.0)))
        metrics = {"loss": plain, "accuracy": accuracy, **collector.metrics()}
        of_layers = collector.loss()
        total, divisor = trained.total, weight
        if self._mean_over_padding:
            divisor = mtf.constant(self._mesh, float(targets.shape.size))
        if of_layers is not None:
            # Means over the batch already: times the divisor they are sums, as the total is.
            total = total + of_layers * divisor
        return Loss(total, divisor, metrics)

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        """The number of ids, by the paths of the variables with a dimension "vocab"."""
        sizes = {"embedding/table": self._vocabulary_size}
        return sizes if self.softmax is None else {**sizes, "softmax/kernel": self._vocabulary_size}

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        """Returns the logits {batch, length, vocab} of the targets, without noise; float32."""
        return self._logits(features, Context())

    def target_weights(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        """Returns the weight {batch, length} of every position in the loss, float32."""
        return mtf.to_float(mtf.greater(features["targets"], 0))

    @abc.abstractmethod
    def _logits(self, features: Mapping[str, mtf.Tensor], context: Context) -> mtf.Tensor:
        """Returns the logits of the targets in a call whose context has no mask and no padding."""

    def _embed(
        self, embedding: Embedding, ids: mtf.Tensor, positions: mtf.Tensor | None
    ) -> mtf.Tensor:
        """Returns the vectors {..., d_model} of ids, at the positions 0, 1, ... if None."""
        x = embedding(ids)
        if self.position is None:
            return x
        if positions is not None:
            return x + self.position(positions)
        return x + self.position.first(ids.shape.get_dim_by_name("length"))

    def _check_length(self, ids: mtf.Tensor) -> mtf.Dimension:
        """Returns the dimension "length" of ids, or raises a ShapeError if it is too long."""
        length = ids.shape.get_dim_by_name("length")
        if self.position is not None:
            self.position.check_length(length)
        return length

    def _classify(self, x: mtf.Tensor) -> mtf.Tensor:
        return self._masked(self.embedding.logits(x) if self.softmax is None else self.softmax(x))

    def _masked(self, logits: mtf.Tensor) -> mtf.Tensor:
        """Returns logits {..., vocab} in float32, those of the padding too low to be predicted."""
        logits = mtf.to_float(logits)
        if self.vocab.size == self._vocabulary_size:
            return logits
        is_padding = np.arange(self.vocab.size) >= self._vocabulary_size
        return logits + mtf.constant(self._mesh, np.where(is_padding, MASKED, 0.0), [self.vocab])

    def _padded(self, vocabulary_size: int) -> mtf.Dimension:
        """Returns the dimension of so many ids and the padding behind them."""
        divisor = self._vocabulary_divisor
        return mtf.Dimension("vocab", -(-vocabulary_size // divisor) * divisor)

    def _step_classifier(self) -> Callable[[mtf.Tensor], mtf.Tensor]:
        """Returns `_classify` for the steps of a decoder: of {batch..., d_model}, one position.

        Large weights are turned once, before the steps, and the logits are {vocab, batch...}: XLA
        on a CPU multiplies {vocab, d_model} by few rows faster than few rows by {d_model, vocab}.
        Measured on one core for 32,128 ids and d_model 512: 16 rows 16 to 4.5 ms, 64 rows 13 to 12
        ms. For 8,192 ids and 256 there is nothing to gain.
        """
        table, scale = self.embedding.table, self._d_model.size**-0.5
        if self.softmax is not None:
            table, scale = self.softmax.kernel, 1.0
        if table.shape.size < TURNED_FROM:
            return self._classify
        weights = mtf.cast(table, self._activation)
        weights = mtf.transpose(weights, [self.vocab, self._d_model])

        def classify(x: mtf.Tensor) -> mtf.Tensor:
            rows = x.shape - self._d_model
            x = mtf.cast(x, self._activation) * scale
            logits = mtf.einsum([weights, x], output_shape=[self.vocab, *rows])
            # Without the barrier XLA would turn the factors back.
            return self._masked(mtf.optimization_barrier(logits))

        return classify


def nonpadding(ids: mtf.Tensor) -> mtf.Tensor:
    """Returns 1.0 for every id that is not 0, else 0.0; float32."""
    return mtf.to_float(mtf.not_equal(ids, 0))
