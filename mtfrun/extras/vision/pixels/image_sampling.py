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
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, INDEX, check_fields
from mtfrun.experiment.experiment import Experiment, Inference
from mtfrun.experiment.inference.decoding import Decoding
from mtfrun.experiment.records import Images, Progress, Record, Source, require
from mtfrun.extras.vision.pixels.pixel_data import PixelData

_REMEDY = "set Experiment.inference to one that fits, such as @experiment.Decoding"


@dataclasses.dataclass(frozen=True)
class ImageSampling(Inference):
    """Draws images value by value; of each input the first rows are kept.

    `mtfrun decode` writes PNG files beside its output. Where the data have labels, each image is
    drawn of a class, and inputs are the names of classes, or images of a split with their labels.

    Attributes:
      experiment: has a TextModel and PixelData.
      batch_size: images of a batch; more if the mesh splits a batch into more parts.
      kept_rows: first rows of an input that its outputs have; with 0 an input counts only.
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
        check_fields(self, INDEX, "kept_rows")
        rows = self._size[0]
        if self.kept_rows >= rows:
            raise InputError(
                f"ImageSampling.kept_rows={self.kept_rows} leaves nothing to draw of {rows} rows: "
                f"make it at most {rows - 1}"
            )

    def __call__(
        self,
        images: Iterable[np.ndarray],
        progress: Progress | None = None,
        *,
        labels: Sequence[str] = (),
    ) -> list[list[np.ndarray]]:
        """Returns `num_outputs` images, uint8 [rows, cols, channels], for each of the same size.

        labels: the name of the class of each image, where the data have labels.
        """
        beginnings = [image[: self.kept_rows].tobytes() for image in images]
        names = labels if self._data.with_labels else [""] * len(beginnings)
        if len(names) != len(beginnings):
            raise InputError(
                f"{len(beginnings)} images have {len(names)} labels: give one for each"
            )
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
        """Returns for each input the names of its images, and their PNG files."""
        records = []
        for number, (fields, outputs) in enumerate(self.draw(inputs, progress)):
            files = {f"{number}_{i}.png": encode_png(image) for i, image in enumerate(outputs)}
            names = list(files)
            records.append(Record({**fields, "images": names}, names, files))
        return records

    def draw(
        self, inputs: Images, progress: Progress | None = None
    ) -> list[tuple[dict[str, object], list[np.ndarray]]]:
        """Returns for each input its fields, of which "label" is its class, and its images."""
        separate, all_fields = inputs.separate()
        images = list(separate)
        labels = [str(fields["label"]) for fields in all_fields if "label" in fields]
        return list(zip(all_fields, self(images, progress, labels=labels), strict=True))

    def images_of_split(self, split: str, number: int | None = None) -> Images:
        """Returns the first images of a split, by default all, with their labels if there are."""
        images = self._data.images
        names, size = images.label_names, len(images.rows(split))
        number = size if number is None else min(number, size)

        def examples() -> Iterator[tuple[np.ndarray, dict[str, object]]]:
            first = itertools.islice(images.images(split), number)
            for index, (image, label) in enumerate(first):
                of_class = {"label": names[label]} if self._data.with_labels else {}
                yield image, {"split": split, "index": index, **of_class}

        return Images(number, examples())

    def _images_of_labels(self, labels: Sequence[bytes]) -> Images:
        if self.kept_rows:
            raise InputError(
                f"ImageSampling.kept_rows={self.kept_rows} are rows of images, and the inputs are "
                "labels: set it to 0, or give the images of a split, --input=split:NAME"
            )
        names = [label.decode("utf-8", "replace") for label in labels]
        for name in names:
            self._data.prompt(b"", name)  # before the model is restored
        blank = np.zeros(self._size, np.uint8)
        return Images(len(names), ((blank, {"label": name}) for name in names))

    def _replace_settings(self, settings: Mapping[str, Any]) -> Self:
        of_search = {name: value for name, value in settings.items() if name != "num_outputs"}
        number = settings.get("num_outputs", self.num_outputs)
        search = dataclasses.replace(self.search, **of_search)
        return dataclasses.replace(self, num_outputs=number, search=search)

    @functools.cached_property
    def _data(self) -> PixelData:
        return require(self.experiment.data, PixelData, type(self).__name__, _REMEDY)

    @functools.cached_property
    def _size(self) -> list[int]:
        return self._data.images.image.to_integer_list

    @functools.cached_property
    def _decoding(self) -> Decoding:
        rows, *of_row = self._size
        values = int(np.prod(of_row))
        return Decoding(
            self.experiment,
            self.batch_size,
            max_length=rows * values,
            decode_length=(rows - self.kept_rows) * values,
            num_outputs=self.num_outputs,
            search=self.search,
        )


def encode_png(pixels: np.ndarray) -> bytes:
    """Returns a PNG file of pixels, uint8 [rows, cols, channels], 1 or 3 channels."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
