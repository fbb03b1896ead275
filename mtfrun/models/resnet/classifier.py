"""Image classifiers: their base class, loss and metrics."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import NOT_NEGATIVE, SHARE_BELOW_1, check_fields
from mtfrun.layers import Call, Collector, Metric, regularised_cross_entropy
from mtfrun.models.model import Features, ImageModel, Loss, Reporting
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.mixup_and_cutmix import (
    cut_rectangles,
    mix_with_previous,
    mixing_coefficients,
    paste_previous,
    previous_in_batch,
    uncut_fraction,
)

CONFUSION_MATRIX = "confusion_matrix"

# With more classes there is no confusion matrix; one of this size takes 4 MB.
_MAX_CONFUSION_CLASSES = 1000

# Pairs of labels {batch} int32 and their coefficients {batch} float32, which add up to 1.
Targets = list[tuple[mtf.Tensor, mtf.Tensor]]

# The entry of the metrics that is differentiated, if it is not "loss".
_OBJECTIVE = "objective"
_TOP = 5


@dataclasses.dataclass(frozen=True)
class ImageLoss:
    """The cross entropy of every image, with regularisation in training.

    Attributes:
      label_smoothing: the part of the target's probability that is spread over all classes.
      mixup_alpha: train on mixtures of two images, see `mixing_coefficients`; 0 for none.
      cutmix_alpha: train on images with a rectangle of another one, see `cut_rectangles`; 0 for
        none. Where both are set, each image has one or the other with probability 1/2.
    """

    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, SHARE_BELOW_1, "label_smoothing")
        check_fields(self, NOT_NEGATIVE, "mixup_alpha", "cutmix_alpha")

    def mix(
        self, images: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor, call: Call
    ) -> tuple[mtf.Tensor, Targets]:
        """Returns the input and its targets: in training mixtures, drawn with the call's key."""
        if not call.training or not (self.mixup_alpha or self.cutmix_alpha):
            return images, [(labels, mtf.ones_like(weights))]
        if call.key is None:
            raise InputError("mixup and CutMix need a key in training")
        mixed, coefficients = self._mix(images, weights, call.key)
        return mixed, [(labels, coefficients), (previous_in_batch(labels), 1.0 - coefficients)]

    def _mix(
        self, images: mtf.Tensor, weights: mtf.Tensor, key: mtf.Key
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns images mixed with the previous ones, and the share of each image, {batch}."""
        results = []
        if self.mixup_alpha:
            coefficients = mixing_coefficients(weights, key.fold_in("mixup"), self.mixup_alpha)
            results.append((mix_with_previous(images, coefficients), coefficients))
        if self.cutmix_alpha:
            rectangles = cut_rectangles(images, weights, key.fold_in("cutmix"), self.cutmix_alpha)
            results.append((paste_previous(images, rectangles), uncut_fraction(rectangles)))
        if len(results) == 1:
            return results[0]
        draws = mtf.random_uniform(images.mesh, weights.shape, key=key.fold_in("mixup or cutmix"))
        is_mixup = mtf.less(draws, 0.5)
        mixed, coefficients = (
            mtf.where(is_mixup, of_mixup, of_cutmix, output_shape=of_mixup.shape)
            for of_mixup, of_cutmix in zip(*results, strict=True)
        )
        return mixed, coefficients

    def __call__(
        self, logits: mtf.Tensor, targets: Targets, weights: mtf.Tensor, call: Call
    ) -> Loss:
        """Returns the sum of the cross entropies of all images, for the targets of `mix`.

        Metrics: "loss", nats per image without label smoothing; "accuracy", the fraction of labels
        whose logit no other class exceeds; with more than five classes also "top_5_accuracy", the
        fraction that at most four exceed. With mixup or CutMix they are means over both labels of
        an image, weighted by their coefficients.
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
        """Returns the metrics of every image {batch} by name; if smoothed, the objective too."""
        classes = logits.shape.get_dim_by_name("classes")
        cross_entropy = mtf.sparse_cross_entropy(
            logits, labels, classes, logsumexp_gradient=smoothed
        )
        metrics = {
            "loss": cross_entropy.loss,
            "accuracy": mtf.to_float(mtf.equal(cross_entropy.margin, 0.0)),
        }
        if classes.size > _TOP:
            rank = _rank(logits, labels, classes)
            metrics["top_5_accuracy"] = mtf.to_float(mtf.less(rank, _TOP))
        if smoothed:
            metrics[_OBJECTIVE] = regularised_cross_entropy(
                cross_entropy, logits, classes, label_smoothing=self.label_smoothing, z_loss=0.0
            )
        return metrics


def metric_names(num_classes: int) -> list[str]:
    """Returns the names of the metrics of `ImageLoss`."""
    return ["loss", "accuracy", *["top_5_accuracy"] * (num_classes > _TOP)]


def _rank(logits: mtf.Tensor, labels: mtf.Tensor, classes: mtf.Dimension) -> mtf.Tensor:
    """Returns the number of classes with a larger logit than the label's; {batch}."""
    of_label = mtf.reduce_sum(logits * mtf.one_hot(labels, classes), reduced_dim=classes)
    larger = mtf.to_float(mtf.greater(logits, of_label))
    return mtf.reduce_sum(larger, reduced_dim=classes)


class ImageClassifier(ImageModel):
    """A model that gives every image of features["images"] a logit for each class.

    Features: "images" {batch, rows, cols, channels}, uint8 or floats that are normalised already;
    "labels" {batch} int32; "weights" {batch} int32, 0 for padding of the batch and 1 otherwise.

    Args:
      num_classes: the number of labels.
      image_input: normalises images, and augments them in training.
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
        shapes = {name: mtf.Shape() for name in metric_names(self._classes.size)}
        return {**shapes, **super().metric_shapes}

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
