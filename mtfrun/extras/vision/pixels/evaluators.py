"""Images that a model of pixels draws at evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mtfrun.display.pictures.canvas import WIDTH
from mtfrun.errors.checks import INDEX, check_fields
from mtfrun.experiment.evaluation.evaluation import EvaluationContext, EvaluationResult, Evaluator
from mtfrun.experiment.records import require
from mtfrun.extras.vision.pixels.image_sampling import ImageSampling

_COLUMNS, _GAP = 8, 4


@dataclasses.dataclass(frozen=True)
class SampledImages(Evaluator):
    """Images that an `ImageSampling` draws for the first `num_images` of a split; 0 for none.

    Where the data have labels, each is of the class of the split's image.
    """

    num_images: int = 32

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "num_images")

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        if not self.num_images or not context.is_shown:
            return EvaluationResult()
        remedy = "leave it out of Evaluation.evaluators"
        who = type(self).__name__
        inference = require(self.experiment.inference, ImageSampling, who, remedy)
        first = inference.images_of_split(self.split, self.num_images)
        drawn = [image for _, images in inference.draw(first, context.progress) for image in images]
        return EvaluationResult(images={"samples": tile_images(drawn)})


def tile_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a grid uint8 [height, width, 3] of images [rows, cols, channels] of one size.

    Small ones are enlarged by a whole number.
    """
    rows, cols, _ = images[0].shape
    columns = min(_COLUMNS, len(images))
    factor = max(1, (WIDTH // columns - _GAP) // cols)
    height, width = rows * factor + _GAP, cols * factor + _GAP
    lines = -(-len(images) // columns)
    grid = np.full([lines * height - _GAP, columns * width - _GAP, 3], 255, np.uint8)
    for number, image in enumerate(images):
        line, column = divmod(number, columns)
        large = image.repeat(factor, 0).repeat(factor, 1)
        place = grid[line * height :, column * width :]
        place[: rows * factor, : cols * factor] = large
    return grid
