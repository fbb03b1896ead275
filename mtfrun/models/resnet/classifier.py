"""Base class of image classifiers: their input, loss and metrics."""

from __future__ import annotations

import abc
from collections.abc import Collection
from typing import ClassVar

from mtfrun import mtf
from mtfrun.layers import Call, Collector, Metric
from mtfrun.models.model import Features, ImageModel, Loss, Reporting
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.image_loss import ImageLoss, metric_names

CONFUSION_MATRIX = "confusion_matrix"

# With more classes there is no confusion matrix; one of this size takes 4 MB.
_MAX_CONFUSION_CLASSES = 1000


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
        self._predicted = mtf.Dimension("predicted", num_classes)
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
            confusion = Metric(self._confusion(logits, labels, weights), loss.weight)
            loss = loss._replace(metrics={**loss.metrics, CONFUSION_MATRIX: confusion})
        return loss.with_collected(collector)

    def logits(self, features: Features) -> mtf.Tensor:
        call = Call()
        return mtf.to_float(self._classify(self._image_input(features["images"], call), call))

    @abc.abstractmethod
    def _classify(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the logits {batch, classes} of normalised images."""

    def _confusion(self, logits: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor) -> mtf.Tensor:
        """Returns the number of images by class and predicted class; {classes, predicted}."""
        predicted = mtf.one_hot(mtf.argmax(logits, self._classes), self._predicted)
        return mtf.einsum(
            [mtf.one_hot(labels, self._classes) * weights, predicted],
            output_shape=mtf.Shape([self._classes, self._predicted]),
        )
