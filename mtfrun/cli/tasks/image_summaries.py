"""What TensorBoard shows of the evaluation of a classifier of images, beside curves."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from mtfrun.cli.tasks.classification import Classification
from mtfrun.evaluation import Labelled, confusion_picture, labelled_pictures
from mtfrun.models.resnet import CONFUSION_MATRIX
from mtfrun.rundir import Summaries


class ImageSummaries:
    """Writes the confusion matrix, and the first images of a split with their predictions.

    Args:
      classification: makes the predictions.
      split: the split of the data.
      num_images: images that are shown; 0 for none.
    """

    def __init__(self, classification: Classification, split: str, num_images: int):
        if num_images < 0:
            raise ValueError(f"num_images={num_images} must not be negative")
        self._classification = classification
        self._split = split
        self._num_images = num_images

    def __call__(self, tables: Mapping[str, np.ndarray], step: int, summaries: Summaries) -> None:
        """Writes "confusion_matrix" and "predictions" as of `step`.

        Args:
          tables: of the evaluation of the whole split.
          step: of the model's weights.
          summaries: of the evaluation.
        """
        names = self._classification.experiment.images.label_names
        if CONFUSION_MATRIX in tables:
            picture = confusion_picture(tables[CONFUSION_MATRIX], names)
            summaries.image(CONFUSION_MATRIX, picture, step)
        if self._num_images:
            images, labels = self._first
            labelled = [
                Labelled(image, names[label], prediction.label, prediction.probability)
                for image, label, prediction in zip(
                    images, labels, self._classification(images), strict=True
                )
            ]
            summaries.image("predictions", labelled_pictures(labelled), step)

    @functools.cached_property
    def _first(self) -> tuple[list[np.ndarray], list[int]]:
        examples = self._classification.experiment.images.source.examples(self._split)
        first = list(examples.take(self._num_images).as_numpy_iterator())
        return [image for image, _ in first], [int(label) for _, label in first]
