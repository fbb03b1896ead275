"""Segmentation of images and volumes with the model of an experiment."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from PIL import Image

from mtfrun import mtf
from mtfrun.data import IMAGES
from mtfrun.display.pictures.canvas import PALETTE
from mtfrun.experiment.inference.classification import ImageInference
from mtfrun.experiment.records import Images, Progress, Record, require
from mtfrun.extras.vision.segmentation.model import SegmentationModel
from mtfrun.extras.vision.segmentation.segmentation_data import SegmentationData

_REMEDY = "set Experiment.inference to one that fits, such as @experiment.Decoding"


@dataclasses.dataclass(frozen=True)
class Segmentation(ImageInference):
    """Predicts the class of every pixel, with a SegmentationModel and SegmentationData."""

    writes_files: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
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
        for predicted, totals in self.outputs(images, progress):
            self.experiment.require_finite(totals, "logits")
            masks += list(predicted.astype(np.uint8))
        return masks

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

    def compute(self, images: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns masks {batch, *spatial}, and sums of logits {batch} that show if one is NaN."""
        logits = self.experiment.model.logits({IMAGES: images})
        batch, *_, classes = logits.shape.dims
        totals = mtf.reduce_sum(mtf.abs(logits), output_shape=[batch])
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
