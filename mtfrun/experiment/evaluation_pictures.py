"""What TensorBoard shows of the evaluation of a classifier of images, beside curves."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from mtfrun.data import reading
from mtfrun.errors import InputError
from mtfrun.evaluation import Labelled, confusion_picture, labelled_pictures
from mtfrun.experiment.classification import Classification
from mtfrun.models.resnet import CONFUSION_MATRIX


class EvaluationPictures:
    """Draws the confusion matrix, and the first images of a split with their predictions.

    Args:
      classification: makes the predictions.
      split: the split of the data.
      num_images: images that are shown; 0 for none.
    """

    def __init__(self, classification: Classification, split: str, num_images: int):
        if num_images < 0:
            raise InputError(f"num_images={num_images} must not be negative")
        self._classification = classification
        self._split = split
        self._num_images = num_images

    def __call__(
        self, tables: Mapping[str, np.ndarray], progress: Callable[[int], None]
    ) -> dict[str, np.ndarray]:
        """Returns "confusion_matrix" and "predictions", uint8 [height, width, 3].

        Args:
          tables: of the evaluation of the whole split.
          progress: told how many images are classified.
        """
        names = self._classification.experiment.images.label_names
        pictures = {}
        if CONFUSION_MATRIX in tables:
            pictures[CONFUSION_MATRIX] = confusion_picture(tables[CONFUSION_MATRIX], names)
        if self._num_images:
            images, labels = self._first
            predictions = self._classification(images, progress)
            labelled = [
                Labelled(image, names[label], prediction.label, prediction.probability)
                for image, label, prediction in zip(images, labels, predictions, strict=True)
            ]
            pictures["predictions"] = labelled_pictures(labelled)
        return pictures

    @functools.cached_property
    def _first(self) -> tuple[list[np.ndarray], list[int]]:
        source = self._classification.experiment.images.source
        with reading(source):
            first = list(source.examples(self._split).take(self._num_images).as_numpy_iterator())
        return [image for image, _ in first], [int(label) for _, label in first]
