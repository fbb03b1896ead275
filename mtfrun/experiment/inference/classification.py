"""Inference from images, and their classification, with the model of an experiment."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data import IMAGES, ImageData
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.experiment.experiment import Experiment, Inference
from mtfrun.experiment.records import Images, Progress, Record, Source, require, split_into_batches
from mtfrun.models import ImageModel

_REMEDY = "set Experiment.inference to one that fits, such as @experiment.Decoding"


@dataclasses.dataclass(frozen=True)
class ImageInference(Inference, abc.ABC):
    """Base class of inference from images: one program computes batches of one size.

    Attributes:
      experiment: has a model and data of images.
      batch_size: images of a batch; more if the mesh splits a batch into more parts.
    """

    experiment: Experiment
    batch_size: int

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "batch_size")

    @property
    @abc.abstractmethod
    def data(self) -> Any:
        """The experiment's data, with `read_image`, `images` and `rows` as `ImageData` has them."""

    @abc.abstractmethod
    def compute(self, images: mtf.Tensor) -> tuple[mtf.Tensor, ...]:
        """Returns tensors {batch, ...} for images {batch, ...}."""

    def fields_of(self, target: Any) -> dict[str, object]:
        """Returns fields of a record for the target of an image of a split; by default none."""
        return {}

    def read(self, source: Source) -> Images:
        split = source.split
        if split is None:
            return source.images(self.data.read_image)
        examples = (
            (image, {"split": split, "index": index, **self.fields_of(target)})
            for index, (image, target) in enumerate(self.data.images(split))
        )
        return Images(len(self.data.rows(split)), examples)

    def outputs(
        self, images: Iterable[np.ndarray], progress: Progress | None
    ) -> Iterator[list[np.ndarray]]:
        """Yields the arrays that `compute` returns for the images of each batch."""
        shape, done = self.experiment.data.shapes(self.rows)[IMAGES], 0
        for some in split_into_batches(images, self.rows):
            batch = np.zeros(shape.to_integer_list, np.uint8)
            batch[: len(some)] = some
            tensors = self.program(mtf.import_tf_tensor(self.experiment.mesh, batch, shape))
            yield [x[: len(some)] for x in mtf.to_numpy(tensors)]
            done += len(some)
            if progress is not None:
                progress(done)

    @functools.cached_property
    def rows(self) -> int:
        return self.experiment.rows_for(self.batch_size)

    @functools.cached_property
    def program(self) -> Callable[[mtf.Tensor], tuple[mtf.Tensor, ...]]:
        return mtf.function(self.compute)


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
class Classification(ImageInference):
    """Classifies images, with an ImageModel and ImageData.

    Attributes:
      top_k: number of classes that are returned for each image; all if there are fewer.
    """

    settings: ClassVar[Sequence[str]] = ("top_k",)

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
        for probabilities, labels in self.outputs(images, progress):
            self.experiment.require_finite(probabilities, "probabilities")
            for row in zip(labels.tolist(), probabilities.tolist(), strict=True):
                top = [LabelProbability(names[i], p) for i, p in zip(*row, strict=True)]
                predictions.append(Prediction(*top[0], top))
        return predictions

    def records(self, inputs: Images, progress: Progress | None = None) -> list[Record]:
        pairs = inputs.map(self, "classifying", progress)
        return [_record(fields, prediction) for fields, prediction in pairs]

    @functools.cached_property
    def data(self) -> ImageData:
        return require(self.experiment.data, ImageData, type(self).__name__, _REMEDY)

    def fields_of(self, target: int) -> dict[str, object]:
        return {"true_label": self.data.label_names[target]}

    def compute(self, images: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns probabilities and classes {batch, top}."""
        logits = self.experiment.model.logits({IMAGES: images})
        (classes,) = logits.shape - images.shape
        top = mtf.Dimension("top", min(self.top_k, classes.size))
        return mtf.top_k(mtf.softmax(logits, classes), classes, top)


def _record(fields: Mapping[str, object], prediction: Prediction) -> Record:
    top = [entry._asdict() for entry in prediction.top]
    file = f"{fields['file']}\t" if "file" in fields else ""
    return Record({**fields, **prediction._asdict(), "top": top}, [file + prediction.label])
