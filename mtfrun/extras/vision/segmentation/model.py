"""Segmentation, a class for every pixel of an image or a volume: base class, loss and metrics."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import NOT_NEGATIVE, check_fields
from mtfrun.layers import Call, Collector, Metric
from mtfrun.models.model import Features, Loss, Model, Reporting
from mtfrun.models.resnet.classifier import CONFUSION_MATRIX, count_confusion
from mtfrun.models.resnet.image_input import ImageInput

_METRICS = ("loss", "accuracy", "dice_loss")


def soft_dice(
    probabilities: mtf.Tensor, truth: mtf.Tensor, output_shape: mtf.Shape, smoothing: float = 1.0
) -> mtf.Tensor:
    """Returns (2 sum(p * t) + smoothing) / (sum(p^2) + sum(t^2) + smoothing), 1 for a perfect p.

    Milletari et al. 2016, arXiv:1606.04797, section 3, with smoothing, in pixels: where there is
    nothing to find and nothing is predicted, the coefficient is 1.

    probabilities, truth: {*output_shape, ...}; the sums are over the dimensions that output_shape
    lacks.
    """
    overlap = mtf.reduce_sum(probabilities * truth, output_shape=output_shape)
    squares = mtf.square(probabilities) + mtf.square(truth)
    sizes = mtf.reduce_sum(squares, output_shape=output_shape)
    return (2.0 * overlap + smoothing) / (sizes + smoothing)


@dataclasses.dataclass(frozen=True)
class SegmentationLoss:
    """A weighted sum of the cross entropy and of the Dice loss of every image.

    Attributes:
      cross_entropy: the factor of the cross entropy, in nats per pixel.
      dice: the factor of 1 - `soft_dice`, a mean over all classes but class 0, the background.
      smoothing: see `soft_dice`.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, NOT_NEGATIVE, "cross_entropy", "dice", "smoothing")
        if not self.cross_entropy and not self.dice:
            raise InputError("SegmentationLoss: cross_entropy and dice are both 0: set one")

    def __call__(self, logits: mtf.Tensor, masks: mtf.Tensor, weights: mtf.Tensor) -> Loss:
        """Returns the sum of the losses of all images, each times its weight.

        logits: {batch, ..., classes} float32; masks: classes {batch, ...} int32; weights: {batch}.
        Metrics, means over images: "loss", the cross entropy; "accuracy", the share of the pixels
        whose logit no other class exceeds; "dice_loss".
        """
        classes = logits.shape.get_dim_by_name("classes")
        batch = weights.shape
        cross_entropy = mtf.sparse_cross_entropy(logits, masks, classes)
        is_right = mtf.to_float(mtf.equal(cross_entropy.margin, 0.0))
        dice = soft_dice(
            mtf.softmax(logits, classes),
            mtf.one_hot(masks, classes),
            batch + classes,
            self.smoothing,
        )
        is_object = mtf.to_float(mtf.greater(mtf.range(logits.mesh, classes), 0))
        mean_dice = mtf.reduce_sum(dice * is_object, output_shape=batch) / (classes.size - 1)
        means = {
            "loss": mtf.reduce_mean(cross_entropy.loss, output_shape=batch),
            "accuracy": mtf.reduce_mean(is_right, output_shape=batch),
            "dice_loss": 1.0 - mean_dice,
        }
        totals = {name: mtf.reduce_sum(values * weights) for name, values in means.items()}
        weight = mtf.reduce_sum(weights)
        objective = self.cross_entropy * totals["loss"] + self.dice * totals["dice_loss"]
        return Loss(objective, weight, {name: Metric(x, weight) for name, x in totals.items()})


class SegmentationModel(Model):
    """A model with a logit of each class for every pixel.

    Features: "images" {batch, *spatial, channels}, uint8 or floats that are normalised already, its
    spatial dimensions {rows, cols} or {depth, rows, cols}; "masks" {batch, *spatial}, the class of
    every pixel, 0 for the background; "weights" {batch}, 0 for padding of the batch and else 1.

    Args:
      num_classes: the number of classes, the background included.
      image_input: normalises images, and in training shifts and flips them together with their
        masks.
    """

    reporting: ClassVar[Reporting] = Reporting(
        "images", "images", ("loss", "dice_loss", "accuracy"), with_perplexity=False
    )
    required_features: ClassVar[Collection[str]] = ("images", "masks", "weights")
    optional_features: ClassVar[Collection[str] | None] = ()
    reads_outer_batch: ClassVar[bool] = False

    def __init__(self, num_classes: int, image_input: ImageInput, loss: SegmentationLoss) -> None:
        super().__init__()
        if not 2 <= num_classes <= 256:  # masks are uint8
            raise InputError(f"segmentation has 2 to 256 classes, not {num_classes}")
        if image_input.cutout:
            raise InputError("segmentation has no cutout: set it to 0")
        self._classes = mtf.Dimension("classes", num_classes)
        self._image_input = image_input
        self._loss = loss

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        return {**{name: mtf.Shape() for name in _METRICS}, **super().metric_shapes}

    @property
    def logits_features(self) -> Sequence[Collection[str]]:
        return [["images"]]

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Evaluation metrics have also "confusion_matrix" {classes, predicted}, in pixels."""
        collector = Collector()
        call = Call(training=training, key=key, collector=collector)
        masks, weights = mtf.to_int32(features["masks"]), mtf.to_float(features["weights"])
        images = self._image_input.normalise(features["images"])
        images, masks = self._augment(images, masks, call)
        logits = mtf.to_float(self._segment(images, call))
        loss = self._loss(logits, masks, weights)
        if not training:
            confusion = Metric(count_confusion(logits, masks, weights), loss.weight)
            loss = loss._replace(metrics={**loss.metrics, CONFUSION_MATRIX: confusion})
        return loss.with_collected(collector)

    def logits(self, features: Features) -> mtf.Tensor:
        images = self._image_input.normalise(features["images"])
        return mtf.to_float(self._segment(images, Call()))

    def _augment(
        self, images: mtf.Tensor, masks: mtf.Tensor, call: Call
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        if not call.training or not self._image_input.augments:
            return images, masks
        channels = images.shape.dims[-1]
        layer = mtf.reshape(mtf.to_float(masks), masks.shape + mtf.Dimension(channels.name, 1))
        both = self._image_input.augment(mtf.concat([images, layer], channels.name), call)
        images, layer = mtf.split(both, both.shape.dims[-1], [channels.size, 1])
        return images, mtf.to_int32(mtf.reshape(layer, masks.shape))

    @abc.abstractmethod
    def _segment(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the logits {batch, *spatial, classes} of normalised images."""
