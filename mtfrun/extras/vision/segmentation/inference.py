"""Segmentation of images and volumes with the model of an experiment."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterable
from typing import ClassVar

import numpy as np
from PIL import Image

from mtfrun import mtf
from mtfrun.data import IMAGES
from mtfrun.display.pictures.canvas import PALETTE
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.experiment.experiment import Experiment, Inference
from mtfrun.experiment.records import Images, Progress, Record, Source, require, split_into_batches
from mtfrun.extras.vision.segmentation.model import SegmentationModel
from mtfrun.extras.vision.segmentation.segmentation_data import SegmentationData

_REMEDY = "set Experiment.inference to one that fits, such as @experiment.Decoding"


@dataclasses.dataclass(frozen=True)
class Segmentation(Inference):
    """Predicts the class of every pixel.

    Attributes:
      experiment: has a SegmentationModel and SegmentationData.
      batch_size: images of a batch; more if the mesh splits a batch into more parts.
    """

    writes_files: ClassVar[bool] = True

    experiment: Experiment
    batch_size: int

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "batch_size")
        require(self.experiment.model, SegmentationModel, type(self).__name__, _REMEDY)

    @property
    def example(self) -> str:
        return "decode --input=split:validation --output=masks.jsonl"

    def __call__(
        self, images: Iterable[np.ndarray], progress: Progress | None = None
    ) -> list[np.ndarray]:
        """Returns masks uint8 [*spatial] of images uint8 [*spatial, channels].

        Raises NonFiniteError for logits that are infinite or NaN.
        """
        masks: list[np.ndarray] = []
        for some in split_into_batches(images, self.rows):
            shape = self.data.shapes(self.rows)[IMAGES]
            batch = np.zeros(shape.to_integer_list, np.uint8)
            batch[: len(some)] = some
            predicted, totals = mtf.to_numpy(
                self.program(mtf.import_tf_tensor(self.experiment.mesh, batch, shape))
            )
            self.experiment.require_finite(totals[: len(some)], "logits")
            masks += list(predicted[: len(some)].astype(np.uint8))
            if progress is not None:
                progress(len(masks))
        return masks

    def read(self, source: Source) -> Images:
        if source.split is None:
            return source.images(self.data.read_image)
        split = source.split
        examples = (
            (image, {"split": split, "index": index})
            for index, (image, _) in enumerate(self.data.images(split))
        )
        return Images(self.data.source.count(split), examples)

    def records(self, inputs: Images, progress: Progress | None = None) -> list[Record]:
        pairs = inputs.map(self, "segmenting", progress)
        return [self._record(f"{i}.png", *pair) for i, pair in enumerate(pairs)]

    def _record(self, name: str, fields: dict[str, object], mask: np.ndarray) -> Record:
        pixels = self.count_pixels(mask)
        text = ", ".join(f"{name} {count}" for name, count in pixels.items() if count)
        file = f"{fields['file']}\t" if "file" in fields else ""
        record = {**fields, "pixels": pixels, "mask": name}
        return Record(record, [file + text], {name: encode_mask(mask)})

    def count_pixels(self, mask: np.ndarray) -> dict[str, int]:
        names = self.data.source.class_names
        counts = np.bincount(mask.ravel(), minlength=len(names)).tolist()
        return dict(zip(names, counts, strict=True))

    @functools.cached_property
    def data(self) -> SegmentationData:
        return require(self.experiment.data, SegmentationData, type(self).__name__, _REMEDY)

    @functools.cached_property
    def _model(self) -> SegmentationModel:
        return require(self.experiment.model, SegmentationModel, type(self).__name__, _REMEDY)

    @functools.cached_property
    def rows(self) -> int:
        return self.experiment.rows_for(self.batch_size)

    @functools.cached_property
    def program(self) -> Callable[[mtf.Tensor], tuple[mtf.Tensor, mtf.Tensor]]:
        return mtf.function(self._predict)

    def _predict(self, images: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor]:
        logits = self._model.logits({IMAGES: images})
        classes = logits.shape.dims[-1]
        totals = mtf.reduce_sum(mtf.abs(logits), output_shape=[logits.shape.dims[0]])
        return mtf.argmax(logits, classes), totals


def class_colours(num_classes: int) -> np.ndarray:
    palette = [[int(name[i : i + 2], 16) for i in (1, 3, 5)] for name in PALETTE]
    return np.array([[0, 0, 0], *np.resize(palette, (num_classes - 1, 3))], np.uint8)


def encode_mask(mask: np.ndarray) -> bytes:
    """Returns a PNG file: a palette image whose pixels are the indices of classes.

    mask: uint8 [rows, cols]; the slices of a volume [depth, rows, cols] are below each other.
    """
    image = Image.fromarray(mask.reshape(-1, mask.shape[-1]), "P")
    image.putpalette(class_colours(int(mask.max()) + 1).ravel().tolist())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
