"""What all classifiers of images share: reading pictures, softmax cross entropy and metrics."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.layers import Updates, regularised_cross_entropy
from mtfrun.models.model import Loss, Metric
from mtfrun.models.reporting import Reporting
from mtfrun.models.resnet.image_input import ImageInput

CONFUSION_MATRIX = "confusion_matrix"

_TOP = 5
# Classes of which every pair is counted: 4 MB.
_MOST_CONFUSED = 1000


class ImageClassifier(mtf.Module, abc.ABC):
    """A model that gives every picture of features["images"] a logit for each class.

    Features: "images" {batch, rows, cols, channels}, uint8 or floats that are normalised already;
    "labels" {batch} int32; "weights" {batch} int32, 0 for what fills up a batch and 1 otherwise.

    Args:
      num_classes: the number of labels.
      image_input: makes normalised floats of pictures, with augmentation in training.
      label_smoothing: the share of the target that is spread over all classes, in training.
    """

    metric_names = ("loss", "accuracy", "top_5_accuracy")
    reporting = Reporting("images", "images", ("loss", "accuracy"), with_perplexity=False)

    def __init__(
        self, num_classes: int, image_input: ImageInput, *, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1)")
        self._classes = mtf.Dimension("classes", num_classes)
        self._predicted = mtf.Dimension("predicted", num_classes)
        self._image_input = image_input
        self._label_smoothing = label_smoothing

    @property
    def evaluation_shapes(self) -> dict[str, mtf.Shape]:
        """The shape {classes, predicted} of the confusion matrix; none where it is a large one."""
        if self._classes.size > _MOST_CONFUSED:
            return {}
        return {CONFUSION_MATRIX: mtf.Shape([self._classes, self._predicted])}

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        """Returns the sum of the cross entropies of all pictures that are not padding.

        Metrics: "loss", nats per picture without label smoothing; "accuracy", the share of labels
        that no other class's logit exceeds; "top_5_accuracy", that at most four exceed; without
        training "confusion_matrix", how many pictures of each class are taken for each.
        """
        labels = features["labels"]
        logits, updates = self._logits_and_updates(features, training=training, key=key)
        weights = mtf.to_float(features["weights"])
        weight = mtf.reduce_sum(weights)

        def mean(values: mtf.Tensor) -> Metric:
            return Metric(mtf.reduce_sum(values * weights), weight)

        smoothed = training and bool(self._label_smoothing)
        found = mtf.sparse_cross_entropy(logits, labels, self._classes, logsumexp_gradient=smoothed)
        plain = trained = mean(found.loss)
        if smoothed:
            trained = mean(
                regularised_cross_entropy(
                    found,
                    logits,
                    self._classes,
                    label_smoothing=self._label_smoothing,
                    z_loss=0.0,
                )
            )
        metrics = {
            "loss": plain,
            "accuracy": mean(mtf.to_float(mtf.equal(found.margin, 0.0))),
            "top_5_accuracy": mean(mtf.to_float(mtf.less(self._rank(logits, labels), _TOP))),
        }
        if not training and self.evaluation_shapes:
            metrics[CONFUSION_MATRIX] = Metric(self._confusion(logits, labels, weights), weight)
        return Loss(trained.total, weight, metrics, updates)

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        """Returns the logits {batch, classes} of features["images"], without noise; float32."""
        return self._logits_and_updates(features, training=False, key=None)[0]

    @abc.abstractmethod
    def _classify(self, images: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        """Returns the logits {batch, classes} of normalised pictures, and the moving averages."""

    def _logits_and_updates(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None
    ) -> tuple[mtf.Tensor, Updates]:
        images = self._image_input(features["images"], training=training, key=key)
        logits, updates = self._classify(images, training)
        return mtf.to_float(logits), updates

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
