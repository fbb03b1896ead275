"""Evaluators of segmentation: scores of masks, and pictures of them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from mtfrun.display.pictures.canvas import TEXT, WIDTH, Canvas, shorten
from mtfrun.errors.checks import INDEX, check_fields
from mtfrun.experiment.evaluation.evaluation import EvaluationContext, EvaluationResult, Evaluator
from mtfrun.experiment.records import require
from mtfrun.extras.vision.segmentation.inference import Segmentation, class_colours
from mtfrun.extras.vision.segmentation.segmentation_data import SegmentationData, SegmentedImage
from mtfrun.models.resnet import CONFUSION_MATRIX

# The space between two images, the height of a line of text, and its length, in pixels.
_GAP, _LINE, _LONGEST_LINE = 7, 16, 46
_TITLES = ("image", "true", "predicted")


@dataclasses.dataclass(frozen=True)
class SegmentationScores(Evaluator):
    """How well masks overlap, over the pixels of all images: by class, and means over classes.

    "dice/<class>" is 2 |A and B| / (|A| + |B|) of the predicted pixels A and the true ones B of a
    class, "iou/<class>" is |A and B| / |A or B|. "mean_dice" and "mean_iou" are means over all
    classes but the background. A class without any such pixel has no score.
    """

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        counts = context.tables[CONFUSION_MATRIX]
        return EvaluationResult(overlap_scores(counts, _data_of(self).source.class_names))


def overlap_scores(counts: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    both = np.diag(counts)
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    metrics: dict[str, float] = {}
    for metric, overlap, total in (("dice", 2 * both, sizes), ("iou", both, sizes - both)):
        values = {
            name: float(x / y)
            for name, x, y in zip(names[1:], overlap[1:], total[1:], strict=True)
            if y > 0
        }
        metrics |= {f"{metric}/{name}": value for name, value in values.items()}
        if values:
            metrics[f"mean_{metric}"] = float(np.mean(list(values.values())))
    return metrics


@dataclasses.dataclass(frozen=True)
class SegmentedImages(Evaluator):
    """The first `num_images` images of a split with true and predicted masks; 0 for none.

    Of volumes the slice in the middle of the depth.
    """

    num_images: int = 4

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "num_images")
        _data_of(self)

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        if not self.num_images or not context.is_shown:
            return EvaluationResult()
        segmentation = require(
            self.experiment.inference, Segmentation, type(self).__name__, "leave it out"
        )
        predicted = segmentation([image for image, _ in self._first], context.progress)
        shown = [
            (_slice(image, 3), _slice(mask, 2), _slice(other, 2))
            for (image, mask), other in zip(self._first, predicted, strict=True)
        ]
        names = _data_of(self).source.class_names
        return EvaluationResult(images={"predictions": segmented_images(shown, names)})

    @functools.cached_property
    def _first(self) -> list[SegmentedImage]:
        return list(itertools.islice(_data_of(self).images(self.split), self.num_images))


def _slice(array: np.ndarray, num_dims: int) -> np.ndarray:
    return array[len(array) // 2] if array.ndim > num_dims else array


def _data_of(evaluator: Evaluator) -> SegmentationData:
    who = f"Evaluation.evaluators: {type(evaluator).__name__}"
    return require(evaluator.experiment.data, SegmentationData, who, "leave it out")


def segmented_images(
    images: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], class_names: Sequence[str]
) -> np.ndarray:
    """Returns a picture with a row for each image, its true mask and its predicted one.

    The images are uint8 [rows, cols, channels], of 1 or 3 channels; the masks [rows, cols].
    """
    side = (WIDTH - 4 * _GAP) / 3
    rows, cols, _ = images[0][0].shape
    height = side * rows / cols
    top = 2 * _LINE + 4
    canvas = Canvas(WIDTH, top + len(images) * (height + _GAP))
    colours = class_colours(len(class_names))
    _legend(canvas, class_names[1:], colours[1:])
    for i, (pixels, *masks) in enumerate(images):
        shown = [np.broadcast_to(pixels, (rows, cols, 3)), *(colours[mask] for mask in masks)]
        for j, array in enumerate(shown):
            left = _GAP + j * (side + _GAP)
            axes = canvas.axes(left, top + i * (height + _GAP), side, height)
            axes.set_axis_off()
            axes.imshow(array, interpolation="nearest" if cols < side else "antialiased")
            if i == 0:
                canvas.text(left + side / 2, top - 5, _TITLES[j], 11, centred=True)
    return canvas.pixels()


def _legend(canvas: Canvas, names: Sequence[str], colours: np.ndarray) -> None:
    left, used = float(_GAP), 0
    for name, colour in zip(names, colours, strict=True):
        text = shorten(name, 14)
        used += len(text) + 3
        if used > _LONGEST_LINE:
            canvas.text(left, 13, "...", 11)
            return
        canvas.box(left, 5, 9, 9, "#{:02x}{:02x}{:02x}".format(*colour))
        canvas.text(left + 13, 13, text, 11, colour=TEXT)
        left += 13 + 6.6 * len(text) + 12
