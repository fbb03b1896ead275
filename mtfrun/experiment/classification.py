"""Classifying images with the model of an experiment."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data import IMAGES
from mtfrun.errors import InputError
from mtfrun.experiment.experiment import Experiment


class LabelProbability(NamedTuple):
    """A class, and how probable the model holds it to be."""

    label: str
    probability: float


class Prediction(NamedTuple):
    """What the model says of an image.

    Attributes:
      label: the most probable class.
      probability: of it.
      top: the most probable classes, best first.
    """

    label: str
    probability: float
    top: list[LabelProbability]


@dataclasses.dataclass(frozen=True)
class Classification:
    """Gives images the classes of the experiment's data.

    experiment: whose model; one of images.
    batch_size: images at a time; more where the mesh splits a batch into more parts.
    top_k: classes that are named for each image, all where there are fewer.
    """

    experiment: Experiment
    batch_size: int
    top_k: int = 5

    def __post_init__(self) -> None:
        for name in ("batch_size", "top_k"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")

    def __call__(
        self, images: Iterable[np.ndarray], progress: Callable[[int], None] = lambda done: None
    ) -> list[Prediction]:
        """Returns a prediction for every image, uint8 [rows, cols, channels], in order.

        Tells `progress` how many are done.

        Raises:
          NonFiniteError: a probability is not a number.
        """
        names = self.experiment.images.label_names
        predictions: list[Prediction] = []
        for batch in _batches(images, self._rows):
            probabilities, labels = self._best(batch)
            for row in zip(labels.tolist(), probabilities.tolist(), strict=True):
                top = [LabelProbability(names[i], p) for i, p in zip(*row, strict=True)]
                predictions.append(Prediction(*top[0], top))
            progress(len(predictions))
        return predictions

    def _best(self, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities and numbers of the best classes of some images, [images, top]."""
        data = self.experiment.images
        shape = data.shapes(self._rows)[IMAGES]
        batch = np.zeros(shape.to_integer_list, np.uint8)
        batch[: len(images)] = images
        found = self._program(mtf.import_tf_tensor(self.experiment.mesh, batch, shape))
        probabilities, labels = (x[: len(images)] for x in mtf.to_numpy(found))
        self.experiment.require_finite(probabilities, "probabilities")
        return probabilities, labels

    @functools.cached_property
    def _rows(self) -> int:
        return self.experiment.rows_for(self.batch_size)

    @functools.cached_property
    def _program(self) -> Callable:
        return mtf.function(self._top)

    def _top(self, images: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor]:
        logits = self.experiment.model.logits({IMAGES: images})
        (classes,) = logits.shape - images.shape
        top = mtf.Dimension("top", min(self.top_k, classes.size))
        return mtf.top_k(mtf.softmax(logits, classes), classes, top)


def _batches(images: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Yields the images in lists of `size`, the last one shorter."""
    iterator = iter(images)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
