"""What all classifiers of images share: their input, loss and metrics."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping
from typing import ClassVar

from mtfrun import mtf
from mtfrun.layers import Updates
from mtfrun.models.model import ImageModel, Loss, Metric
from mtfrun.models.reporting import Reporting
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.image_loss import ImageLoss

CONFUSION_MATRIX = "confusion_matrix"

# Classes of which every pair is counted: 4 MB.
_MOST_CONFUSED = 1000


class ImageClassifier(ImageModel):
    """A model that gives every image of features["images"] a logit for each class.

    Features: "images" {batch, rows, cols, channels}, uint8 or floats that are normalised already;
    "labels" {batch} int32; "weights" {batch} int32, 0 for what fills up a batch and 1 otherwise.

    Args:
      num_classes: the number of labels.
      image_input: makes normalised floats of images, with augmentation in training.
      loss: what is trained on.
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
        """The scalars "loss", "accuracy" and "top_5_accuracy"."""
        return {name: mtf.Shape() for name in ("loss", "accuracy", "top_5_accuracy")}

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        """Returns the loss of all images that are not padding, see `ImageLoss`.

        Without training the metrics also have "confusion_matrix", how many images of each class are
        taken for each.
        """
        labels, weights = features["labels"], mtf.to_float(features["weights"])
        images = self._image_input(features["images"], training=training, key=key)
        images, targets = self._loss.mix(images, labels, weights, training=training, key=key)
        logits, updates = self._float_logits(images, training)
        loss = self._loss(logits, targets, weights, training=training)
        metrics = loss.metrics
        if not training and self._classes.size <= _MOST_CONFUSED:
            confusion = Metric(self._confusion(logits, labels, weights), loss.weight)
            metrics = {**metrics, CONFUSION_MATRIX: confusion}
        return loss._replace(metrics=metrics, updates=updates)

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        """Returns the logits {batch, classes} of features["images"], without noise; float32."""
        images = self._image_input(features["images"], training=False, key=None)
        return self._float_logits(images, False)[0]

    @abc.abstractmethod
    def _classify(self, images: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        """Returns the logits {batch, classes} of normalised images, and the moving averages."""

    def _float_logits(self, images: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        logits, updates = self._classify(images, training)
        return mtf.to_float(logits), updates

    def _confusion(self, logits: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor) -> mtf.Tensor:
        """Returns how many images of each class are taken for each; {classes, predicted}."""
        predicted = mtf.one_hot(mtf.argmax(logits, self._classes), self._predicted)
        return mtf.einsum(
            [mtf.one_hot(labels, self._classes) * weights, predicted],
            output_shape=mtf.Shape([self._classes, self._predicted]),
        )
