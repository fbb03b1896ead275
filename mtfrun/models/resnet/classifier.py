"""Image classifiers: their base class, loss and metrics."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection
from typing import ClassVar, Protocol

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import SHARE_BELOW_1, check_fields
from mtfrun.layers import Call, Collector, Metric, regularised_cross_entropy
from mtfrun.models.model import Features, ImageModel, Loss, Reporting
from mtfrun.models.resnet.image_input import ImageInput

CONFUSION_MATRIX = "confusion_matrix"

# With more classes there is no confusion matrix; one of this size takes 4 MB.
_MAX_CONFUSION_CLASSES = 1000

# Pairs of labels {batch} int32 and their coefficients {batch} float32, which add up to 1.
Targets = list[tuple[mtf.Tensor, mtf.Tensor]]

# The entry of the metrics that is differentiated, if it is not "loss".
_OBJECTIVE = "objective"
_TOP = 5


class MixImages(Protocol):
    """Replaces the images of a batch by mixtures of them, in training."""

    def __call__(
        self, images: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor, key: mtf.Key
    ) -> tuple[mtf.Tensor, Targets]:
        """Returns images {batch, rows, cols, channels} and the labels of each.

        labels: {batch} int32; weights: {batch} float32, 0 for images that pad the batch.
        """


@dataclasses.dataclass(frozen=True)
class ImageLoss:
    """The cross entropy of every image, with regularisation in training.

    Attributes:
      label_smoothing: the part of the target's probability that is spread over all classes.
      mixing: replaces images by mixtures.
    """

    label_smoothing: float = 0.0
    mixing: MixImages | None = None

    def __post_init__(self) -> None:
        check_fields(self, SHARE_BELOW_1, "label_smoothing")

    def mix(
        self, images: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor, call: Call
    ) -> tuple[mtf.Tensor, Targets]:
        """Returns the input and its targets: in training mixtures, drawn with the call's key."""
        if not call.training or self.mixing is None:
            return images, [(labels, mtf.ones_like(weights))]
        if call.key is None:
            raise InputError("mixing of images needs a key in training")
        return self.mixing(images, labels, weights, call.key)

    def __call__(
        self, logits: mtf.Tensor, targets: Targets, weights: mtf.Tensor, call: Call
    ) -> Loss:
        """Returns the sum of the cross entropies of all images, for the targets of `mix`.

        Metrics: "loss", nats per image without label smoothing; "accuracy", the fraction of labels
        with the largest logit; with more than five classes also "top_5_accuracy", the
        fraction among the five largest. Of a mixture they are means over its labels, weighted by
        their coefficients.
        """
        weight = mtf.reduce_sum(weights)
        smoothed = call.training and bool(self.label_smoothing)
        totals: dict[str, mtf.Tensor] = {}
        for labels, coefficients in targets:
            for name, values in self._per_image(logits, labels, smoothed=smoothed).items():
                total = mtf.reduce_sum(values * (weights * coefficients))
                totals[name] = totals[name] + total if name in totals else total
        objective = totals.pop(_OBJECTIVE, totals["loss"])
        return Loss(objective, weight, {name: Metric(x, weight) for name, x in totals.items()})

    def _per_image(
        self, logits: mtf.Tensor, labels: mtf.Tensor, *, smoothed: bool
    ) -> dict[str, mtf.Tensor]:
        classes = logits.shape.get_dim_by_name("classes")
        cross_entropy = mtf.sparse_cross_entropy(
            logits, labels, classes, logsumexp_gradient=smoothed
        )
        metrics = {
            "loss": cross_entropy.loss,
            "accuracy": mtf.to_float(mtf.equal(cross_entropy.margin, 0.0)),
        }
        if classes.size > _TOP:
            is_label = mtf.one_hot(labels, classes)
            label_logit = mtf.reduce_sum(logits * is_label, reduced_dim=classes)
            larger = mtf.to_float(mtf.greater(logits, label_logit))
            rank = mtf.reduce_sum(larger, reduced_dim=classes)
            metrics["top_5_accuracy"] = mtf.to_float(mtf.less(rank, _TOP))
        if smoothed:
            metrics[_OBJECTIVE] = regularised_cross_entropy(
                cross_entropy, logits, classes, label_smoothing=self.label_smoothing, z_loss=0.0
            )
        return metrics


class ImageClassifier(ImageModel):
    """A model that gives every image of features["images"] a logit for each class.

    Features: "images" {batch, rows, cols, channels}, uint8 or floats that are normalised already;
    "labels" {batch} int32; "weights" {batch} int32, 0 for padding of the batch and 1 otherwise.
    """

    reporting: ClassVar[Reporting] = Reporting(
        "images", "images", ("loss", "accuracy"), with_perplexity=False
    )
    optional_features: ClassVar[Collection[str]] = ()
    reads_outer_batch: ClassVar[bool] = False

    def __init__(
        self, num_classes: int, image_input: ImageInput, loss: ImageLoss = ImageLoss()
    ) -> None:
        super().__init__()
        self._classes = mtf.Dimension("classes", num_classes)
        self._image_input = image_input
        self._loss = loss

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        names = ["loss", "accuracy", *["top_5_accuracy"] * (self._classes.size > _TOP)]
        return {**dict.fromkeys(names, mtf.Shape()), **super().metric_shapes}

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the loss of all images that are not padding, see `ImageLoss`.

        Outside of training the metrics also have "confusion_matrix" {classes, predicted}.
        """
        collector = Collector()
        call = Call(training=training, key=key, collector=collector)
        labels, weights = features["labels"], mtf.to_float(features["weights"])
        images = self._image_input(features["images"], call)
        images, targets = self._loss.mix(images, labels, weights, call)
        logits = mtf.to_float(self._classify(images, call))
        loss = self._loss(logits, targets, weights, call)
        if not training and self._classes.size <= _MAX_CONFUSION_CLASSES:
            confusion = Metric(count_confusion(logits, labels, weights), loss.weight)
            loss = loss._replace(metrics={**loss.metrics, CONFUSION_MATRIX: confusion})
        return loss.with_collected(collector)

    def logits(self, features: Features) -> mtf.Tensor:
        call = Call()
        return mtf.to_float(self._classify(self._image_input(features["images"], call), call))

    @abc.abstractmethod
    def _classify(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the logits {batch, classes} of normalised images."""


def count_confusion(logits: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor) -> mtf.Tensor:
    """Returns the number of labels by class and predicted class; {classes, predicted}.

    logits: {batch, ..., classes}; labels: {batch, ...}; weights: {batch}.
    """
    classes = logits.shape.get_dim_by_name("classes")
    other = mtf.Dimension("predicted", classes.size)
    predicted = mtf.one_hot(mtf.argmax(logits, classes), other)
    return mtf.einsum(
        [mtf.one_hot(labels, classes) * weights, predicted], output_shape=[classes, other]
    )
