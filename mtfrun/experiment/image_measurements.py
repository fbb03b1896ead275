"""Measurements of image classifiers that TensorBoard shows as images."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import cast

import numpy as np

from mtfrun.checks import INDEX, check_fields
from mtfrun.data import ImageData
from mtfrun.display import pictures
from mtfrun.experiment.inference import Images, required
from mtfrun.experiment.measurement import Evaluated, Measured, Measurement
from mtfrun.models.resnet import CONFUSION_MATRIX


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix(Measurement):
    """The confusion matrix, if the model counts it."""

    def __call__(self, evaluated: Evaluated) -> Measured:
        """Returns an image of the matrix."""
        if CONFUSION_MATRIX not in evaluated.tables or not evaluated.is_shown:
            return Measured()
        data = _data(self)
        image = pictures.confusion_matrix(evaluated.tables[CONFUSION_MATRIX], data.label_names)
        return Measured(images={CONFUSION_MATRIX: image})


@dataclasses.dataclass(frozen=True)
class LabelledImages(Measurement):
    """The first images of a split with their predictions.

    Attributes:
      num_images: number of images; 0 for none.
    """

    num_images: int = 12

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "num_images")
        _data(self)

    def __call__(self, evaluated: Evaluated) -> Measured:
        """Returns a grid of the images, and their predictions."""
        if not self.num_images or not evaluated.is_shown:
            return Measured()
        examples: list[tuple[np.ndarray, dict[str, object]]]
        examples = [(image, {}) for image, _ in self._first]
        records = self.experiment.inference.records(
            Images(len(examples), examples), evaluated.progress
        )
        names = _data(self).label_names
        labelled = [
            pictures.LabelledImage(
                image,
                names[label],
                str(record.fields["label"]),
                cast(float, record.fields["probability"]),
            )
            for (image, label), record in zip(self._first, records, strict=True)
        ]
        saved = [
            {"index": i, "true_label": names[label], **record.fields}
            for i, ((_, label), record) in enumerate(zip(self._first, records, strict=True))
        ]
        return Measured(images={"predictions": pictures.image_grid(labelled)}, records=saved)

    @functools.cached_property
    def _first(self) -> list[tuple[np.ndarray, int]]:
        return list(itertools.islice(_data(self).images(self.split), self.num_images))


def _data(measurement: Measurement) -> ImageData:
    who = f"Evaluation.measurements: {type(measurement).__name__}"
    return required(measurement.experiment.data, ImageData, who, "leave it out")
