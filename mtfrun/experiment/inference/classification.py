"""Classification of images with the model of an experiment."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data import IMAGES, ImageData
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.experiment.experiment import Experiment, Inference
from mtfrun.experiment.records import Images, Progress, Record, Source, require, split_into_batches
from mtfrun.models import ImageModel

_REMEDY = "set Experiment.inference to one that fits, such as @experiment.Decoding"


class LabelProbability(NamedTuple):
    """A class and its predicted probability."""

    label: str
    probability: float


class Prediction(NamedTuple):
    """The most probable class of an image, and in `top` several, best first."""

    label: str
    probability: float
    top: list[LabelProbability]


@dataclasses.dataclass(frozen=True)
class Classification(Inference):
    """Classifies images.

    Attributes:
      experiment: has an ImageModel and ImageData.
      batch_size: images of a batch; more if the mesh splits a batch into more parts.
      top_k: number of classes that are returned for each image; all if there are fewer.
    """

    settings: ClassVar[Sequence[str]] = ("top_k",)

    experiment: Experiment
    batch_size: int
    top_k: int = 5

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "batch_size", "top_k")
        require(self.experiment.model, ImageModel, type(self).__name__, _REMEDY)

    @property
    def example(self) -> str:
        return "decode --input=split:validation"

    def __call__(
        self, images: Iterable[np.ndarray], progress: Progress | None = None
    ) -> list[Prediction]:
        """Returns predictions for images, uint8 [rows, cols, channels]; NonFiniteError for NaN."""
        names = self.data.label_names
        predictions: list[Prediction] = []
        for batch in split_into_batches(images, self.rows):
            probabilities, labels = self._best(batch)
            for row in zip(labels.tolist(), probabilities.tolist(), strict=True):
                top = [LabelProbability(names[i], p) for i, p in zip(*row, strict=True)]
                predictions.append(Prediction(*top[0], top))
            if progress is not None:
                progress(len(predictions))
        return predictions

    def read(self, source: Source) -> Images:
        if source.split is None:
            return source.images(self.data.read_image)
        return self._images_of_split(source.split)

    def records(self, inputs: Images, progress: Progress | None = None) -> list[Record]:
        pairs = inputs.map(self, "classifying", progress)
        return [_record(fields, prediction) for fields, prediction in pairs]

    @functools.cached_property
    def data(self) -> ImageData:
        return require(self.experiment.data, ImageData, type(self).__name__, _REMEDY)

    def _images_of_split(self, split: str) -> Images:
        names = self.data.label_names

        def label_images() -> Iterator[tuple[np.ndarray, dict[str, object]]]:
            for index, (image, label) in enumerate(self.data.images(split)):
                yield image, {"split": split, "index": index, "true_label": names[label]}

        return Images(len(self.data.rows(split)), label_images())

    def _best(self, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        shape = self.data.shapes(self.rows)[IMAGES]
        batch = np.zeros(shape.to_integer_list, np.uint8)
        batch[: len(images)] = images
        top = self.program(mtf.import_tf_tensor(self.experiment.mesh, batch, shape))
        probabilities, labels = (x[: len(images)] for x in mtf.to_numpy(top))
        self.experiment.require_finite(probabilities, "probabilities")
        return probabilities, labels

    @functools.cached_property
    def rows(self) -> int:
        return self.experiment.rows_for(self.batch_size)

    @functools.cached_property
    def program(self) -> Callable[[mtf.Tensor], tuple[mtf.Tensor, mtf.Tensor]]:
        """The function from images {batch, ...} to probabilities and classes {batch, top}."""
        return mtf.function(self._top)

    def _top(self, images: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor]:
        logits = self.experiment.model.logits({IMAGES: images})
        (classes,) = logits.shape - images.shape
        top = mtf.Dimension("top", min(self.top_k, classes.size))
        return mtf.top_k(mtf.softmax(logits, classes), classes, top)


def _record(fields: Mapping[str, object], prediction: Prediction) -> Record:
    top = [entry._asdict() for entry in prediction.top]
    file = f"{fields['file']}\t" if "file" in fields else ""
    return Record({**fields, **prediction._asdict(), "top": top}, [file + prediction.label])
