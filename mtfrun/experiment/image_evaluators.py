"""Evaluators of image classifiers that TensorBoard shows as images."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import cast

import numpy as np

from mtfrun.checks import INDEX, check_fields
from mtfrun.data import ImageData
from mtfrun.display import pictures
from mtfrun.experiment.evaluator import EvaluationContext, EvaluationResult, Evaluator
from mtfrun.experiment.records import Images, require
from mtfrun.models.resnet import CONFUSION_MATRIX


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix(Evaluator):
    """The confusion matrix, if the model counts it."""

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        """Returns an image of the matrix."""
        if CONFUSION_MATRIX not in context.tables or not context.is_shown:
            return EvaluationResult()
        data = _data(self)
        image = pictures.confusion_matrix(context.tables[CONFUSION_MATRIX], data.label_names)
        return EvaluationResult(images={CONFUSION_MATRIX: image})


@dataclasses.dataclass(frozen=True)
class LabelledImages(Evaluator):
    """The first `num_images` images of a split with their predictions; 0 for none."""

    num_images: int = 12

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "num_images")
        _data(self)

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        """Returns a grid of the images, and their predictions."""
        if not self.num_images or not context.is_shown:
            return EvaluationResult()
        examples: list[tuple[np.ndarray, dict[str, object]]]
        examples = [(image, {}) for image, _ in self._first]
        records = self.experiment.inference.records(
            Images(len(examples), examples), context.progress
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
        return EvaluationResult(
            images={"predictions": pictures.image_grid(labelled)}, records=saved
        )

    @functools.cached_property
    def _first(self) -> list[tuple[np.ndarray, int]]:
        return list(itertools.islice(_data(self).images(self.split), self.num_images))


def _data(evaluator: Evaluator) -> ImageData:
    who = f"Evaluation.evaluators: {type(evaluator).__name__}"
    return require(evaluator.experiment.data, ImageData, who, "leave it out")
