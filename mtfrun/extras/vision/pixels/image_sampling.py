"""Images that a model of pixels draws, or completes."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from mtfrun import decoding
from mtfrun.display.pictures.canvas import WIDTH
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, INDEX, Range, check_fields
from mtfrun.experiment.evaluation.evaluation import EvaluationContext, EvaluationResult, Evaluator
from mtfrun.experiment.experiment import Experiment, Inference
from mtfrun.experiment.inference.decoding import Decoding
from mtfrun.experiment.records import Images, Progress, Record, Source, require
from mtfrun.extras.vision.pixels.pixel_data import PixelData

# Columns of a grid of images, and the space between them in pixels.
_COLUMNS, _GAP = 8, 4
_REMEDY = "set Experiment.inference to one that fits, such as @experiment.Decoding"


@dataclasses.dataclass(frozen=True)
class ImageSampling(Inference):
    """Draws images value by value below the first rows of the inputs.

    `mtfrun decode` writes PNG files beside its output. Data with labels have inputs that are names
    of classes, or images of a split with their labels.

    Attributes:
      experiment: has a TextModel and PixelData.
      batch_size: images of a batch; more if the mesh splits a batch into more parts.
      kept_rows: number of first rows of an input that its outputs have.
      num_outputs: images for each input.
      search: search with a temperature, since the likeliest image is a dull one.
    """

    settings: ClassVar[Sequence[str]] = ("num_outputs", "temperature", "top_k", "top_p", "seed")
    writes_files: ClassVar[bool] = True

    experiment: Experiment
    batch_size: int
    kept_rows: int = 0
    num_outputs: int = 1
    search: decoding.Search = dataclasses.field(
        default_factory=lambda: decoding.Search(temperature=1.0)
    )

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "batch_size", "num_outputs")
        check_fields(self, Range(0, self._size[0] - 1, whole=True), "kept_rows")

    def __call__(
        self,
        images: Iterable[np.ndarray],
        progress: Progress | None = None,
        *,
        labels: Sequence[str] = (),
    ) -> list[list[np.ndarray]]:
        """Returns `num_outputs` images, uint8 [rows, cols, channels], for each of the same size."""
        beginnings = [image[: self.kept_rows].tobytes() for image in images]
        names = labels if self._data.with_labels else [""] * len(beginnings)
        if len(names) != len(beginnings):
            raise InputError(f"{len(beginnings)} images need as many labels, not {len(names)}")
        prompts = [self._data.prompt(*pair) for pair in zip(beginnings, names, strict=True)]
        answers = self._decoding(prompts, progress)
        drawn = []
        for beginning, answer in zip(beginnings, answers, strict=True):
            contents = [beginning + output.text.encode("latin-1") for output in answer.outputs]
            drawn.append([np.frombuffer(x, np.uint8).reshape(self._size) for x in contents])
        return drawn

    @property
    def example(self) -> str:
        return "decode --input=split:validation --output=images.jsonl"

    def read(self, source: Source) -> Images:
        if source.split is not None:
            return self.images_of_split(source.split)
        if self._data.with_labels:
            return self._images_of_labels(source.texts())
        return source.images(self._data.images.read_image)

    def records(self, inputs: Images, progress: Progress | None = None) -> list[Record]:
        records = []
        for number, (fields, outputs) in enumerate(self.draw(inputs, progress)):
            files = {f"{number}_{i}.png": _encode_png(image) for i, image in enumerate(outputs)}
            names = list(files)
            records.append(Record({**fields, "images": names}, names, files))
        return records

    def draw(
        self, inputs: Images, progress: Progress | None = None
    ) -> list[tuple[dict[str, object], list[np.ndarray]]]:
        separate, all_fields = inputs.separate()
        images = list(separate)
        labels = [str(fields["label"]) for fields in all_fields if "label" in fields]
        return list(zip(all_fields, self(images, progress, labels=labels), strict=True))

    def images_of_split(self, split: str, number: int | None = None) -> Images:
        images = self._data.images
        names, size = images.label_names, len(images.rows(split))
        number = size if number is None else min(number, size)

        def examples() -> Iterator[tuple[np.ndarray, dict[str, object]]]:
            first = itertools.islice(images.images(split), number)
            for index, (image, label) in enumerate(first):
                fields = {"label": names[label]} if self._data.with_labels else {}
                yield image, {"split": split, "index": index, **fields}

        return Images(number, examples())

    def _images_of_labels(self, labels: Sequence[bytes]) -> Images:
        if self.kept_rows:
            what = f"ImageSampling.kept_rows={self.kept_rows} for inputs that are labels"
            raise InputError(f"{what}: set it to 0, or give images, --input=split:NAME")
        names = [label.decode("utf-8", "replace") for label in labels]
        for name in names:
            self._data.prompt(b"", name)  # before the model is restored
        blank = np.zeros(self._size, np.uint8)
        return Images(len(names), ((blank, {"label": name}) for name in names))

    def _replace_settings(self, settings: Mapping[str, Any]) -> Self:
        settings = {"num_outputs": self.num_outputs, **settings}
        number = settings.pop("num_outputs")
        search = dataclasses.replace(self.search, **settings)
        return dataclasses.replace(self, num_outputs=number, search=search)

    @functools.cached_property
    def _data(self) -> PixelData:
        return require(self.experiment.data, PixelData, type(self).__name__, _REMEDY)

    @functools.cached_property
    def _size(self) -> list[int]:
        return self._data.images.image.to_integer_list

    @functools.cached_property
    def _decoding(self) -> Decoding:
        rows, cols, channels = self._size
        values = cols * channels
        return Decoding(
            self.experiment,
            self.batch_size,
            max_length=rows * values,
            decode_length=(rows - self.kept_rows) * values,
            num_outputs=self.num_outputs,
            search=self.search,
        )


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


def _encode_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
