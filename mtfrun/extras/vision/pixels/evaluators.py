"""Images that a model of pixels draws at evaluations."""

from __future__ import annotations

import dataclasses

from mtfrun.display import pictures
from mtfrun.errors.checks import INDEX, check_fields
from mtfrun.experiment.evaluation.evaluation import EvaluationContext, EvaluationResult, Evaluator
from mtfrun.experiment.records import require
from mtfrun.extras.vision.pixels.image_sampling import ImageSampling


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
        return EvaluationResult(images={"samples": pictures.tile_images(drawn)})
