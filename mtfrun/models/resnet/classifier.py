"""What all classifiers of images share: reading pictures, softmax cross entropy and metrics."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping
from typing import ClassVar

from mtfrun import mtf
from mtfrun.layers import Updates, regularised_cross_entropy
from mtfrun.models.model import ImageModel, Loss, Metric
from mtfrun.models.reporting import Reporting
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.mixup import before_in_batch, mixed, mixing_shares

CONFUSION_MATRIX = "confusion_matrix"

# What is differentiated, beside the metrics.
_TRAINED = "trained"
_TOP = 5
# Classes of which every pair is counted: 4 MB.
_MOST_CONFUSED = 1000


class ImageClassifier(ImageModel):
    """A model that gives every picture of features["images"] a logit for each class.

    Features: "images" {batch, rows, cols, channels}, uint8 or floats that are normalised already;
    "labels" {batch} int32; "weights" {batch} int32, 0 for what fills up a batch and 1 otherwise.

    Args:
      num_classes: the number of labels.
      image_input: makes normalised floats of pictures, with augmentation in training.
      label_smoothing: the share of the target that is spread over all classes, in training.
      mixup_alpha: train on mixtures of two pictures, see `mixing_shares`; 0 for none.
    """

    reporting: ClassVar[Reporting] = Reporting(
        "images", "images", ("loss", "accuracy"), with_perplexity=False
    )
    optional_features: ClassVar[Collection[str]] = ()
    reads_outer_batch: ClassVar[bool] = False

    def __init__(
        self,
        num_classes: int,
        image_input: ImageInput,
        *,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1)")
        if mixup_alpha < 0.0:
            raise ValueError(f"mixup_alpha={mixup_alpha} must not be negative")
        self._classes = mtf.Dimension("classes", num_classes)
        self._predicted = mtf.Dimension("predicted", num_classes)
        self._image_input = image_input
        self._label_smoothing = label_smoothing
        self._mixup_alpha = mixup_alpha

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        """The scalars "loss", "accuracy" and "top_5_accuracy"."""
        return {name: mtf.Shape() for name in ("loss", "accuracy", "top_5_accuracy")}

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        """Returns the sum of the cross entropies of all pictures that are not padding.

        Metrics: "loss", nats per picture without label smoothing; "accuracy", the share of labels
        that no other class's logit exceeds; "top_5_accuracy", that at most four exceed; without
        training "confusion_matrix", how many pictures of each class are taken for each. With mixup
        they are means over both labels of a mixture, in the pictures' shares.
        """
        labels, weights = features["labels"], mtf.to_float(features["weights"])
        images = self._image_input(features["images"], training=training, key=key)
        targets = [(labels, mtf.ones_like(weights))]
        if training and self._mixup_alpha:
            if key is None:
                raise ValueError("mixup needs a key in training")
            shares = mixing_shares(weights, key.fold_in("mixup"), self._mixup_alpha)
            images = mixed(images, shares)
            targets = [(labels, shares), (before_in_batch(labels), 1.0 - shares)]
        logits, updates = self._float_logits(images, training)
        weight = mtf.reduce_sum(weights)
        sums: dict[str, mtf.Tensor] = {}
        for labels_of_part, shares in targets:
            for name, values in self._measured(logits, labels_of_part, training).items():
                total = mtf.reduce_sum(values * (weights * shares))
                sums[name] = sums[name] + total if name in sums else total
        trained = sums.pop(_TRAINED, sums["loss"])
        metrics = {name: Metric(total, weight) for name, total in sums.items()}
        if not training and self._classes.size <= _MOST_CONFUSED:
            metrics[CONFUSION_MATRIX] = Metric(self._confusion(logits, labels, weights), weight)
        return Loss(trained, weight, metrics, updates)

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        """Returns the logits {batch, classes} of features["images"], without noise; float32."""
        images = self._image_input(features["images"], training=False, key=None)
        return self._float_logits(images, False)[0]

    @abc.abstractmethod
    def _classify(self, images: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        """Returns the logits {batch, classes} of normalised pictures, and the moving averages."""

    def _float_logits(self, images: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        logits, updates = self._classify(images, training)
        return mtf.to_float(logits), updates

    def _measured(
        self, logits: mtf.Tensor, labels: mtf.Tensor, training: bool
    ) -> dict[str, mtf.Tensor]:
        """Returns the metrics of every picture, {batch}, by name.

        Where something else than "loss" is trained on, it is there too.
        """
        smoothed = training and bool(self._label_smoothing)
        found = mtf.sparse_cross_entropy(logits, labels, self._classes, logsumexp_gradient=smoothed)
        measured = {
            "loss": found.loss,
            "accuracy": mtf.to_float(mtf.equal(found.margin, 0.0)),
            "top_5_accuracy": mtf.to_float(mtf.less(self._rank(logits, labels), _TOP)),
        }
        if smoothed:
            measured[_TRAINED] = regularised_cross_entropy(
                found,
                logits,
                self._classes,
                label_smoothing=self._label_smoothing,
                z_loss=0.0,
            )
        return measured

    def _confusion(self, logits: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor) -> mtf.Tensor:
        """Returns how many pictures of each class are taken for each; {classes, predicted}."""
        predicted = mtf.one_hot(mtf.argmax(logits, self._classes), self._predicted)
        return mtf.einsum(
            [mtf.one_hot(labels, self._classes) * weights, predicted],
            output_shape=mtf.Shape([self._classes, self._predicted]),
        )

    def _rank(self, logits: mtf.Tensor, labels: mtf.Tensor) -> mtf.Tensor:
        """Returns how many classes have a larger logit than the label; {batch}."""
        of_label = mtf.reduce_sum(
            logits * mtf.one_hot(labels, self._classes), reduced_dim=self._classes
        )
        larger = mtf.to_float(mtf.greater(logits, of_label))
        return mtf.reduce_sum(larger, reduced_dim=self._classes)
