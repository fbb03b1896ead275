"""The base class of sources of labelled images, and the check of their files."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from mtfrun.data.errors import DataError
from mtfrun.data.images.image_files import encode_image, in_threads
from mtfrun.data.sources.records import BadRecords
from mtfrun.data.sources.source import MissingSource, SplitSource
from mtfrun.display.streams import quiet_stderr

# Images that are decoded together, to be checked: enough to keep threads busy.
_TOGETHER = 128
# Rows, columns and channels; None for rows and columns that differ from image to image.
ImageSize = tuple[int | None, int | None, int]


class ImageExample(NamedTuple):
    """A labelled image: its content, and the index of its class.

    If all images have one size: uint8 pixels, row by row, the channels of a pixel together.
    Otherwise a JPEG or PNG file, see `encode_image`.
    """

    content: bytes
    label: int


class ImageSource(SplitSource[ImageExample]):
    """Labelled images in splits."""

    @property
    @abc.abstractmethod
    def size(self) -> ImageSize:
        """Rows, columns and channels of every image; None for rows and columns that differ."""

    @property
    @abc.abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """The name of every class."""


@dataclasses.dataclass(frozen=True)
class NoImages(MissingSource[ImageExample], ImageSource):
    """No images: a model classifies without any, and training refuses.

    Attributes:
      labels: the name of every class.
      channels: the channels of the images to classify; 1 for grey, 3 for colour.
      rows, cols: the size of all images; None if they differ.
    """

    missing = "images"
    remedy = "--gin_file=data/image_folders.gin, or set --gin.TRAINING_IMAGES"

    labels: Sequence[str]
    channels: int = 3
    rows: int | None = None
    cols: int | None = None

    @property
    def size(self) -> ImageSize:
        return self.rows, self.cols, self.channels

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.labels)


class ImageFile(NamedTuple):
    """An image file that has not been read; `place` is its path, for messages."""

    place: str
    label: int
    read: Callable[[], bytes]


def check_images(
    files: Iterable[ImageFile], channels: int, bad: BadRecords
) -> Iterator[ImageExample]:
    """Yields the images in their order, after decoding each to see that it is whole."""

    def check(file: ImageFile) -> ImageExample | DataError:
        try:
            return ImageExample(encode_image(file.read(), channels, file.place).content, file.label)
        except DataError as error:
            return error

    remaining = iter(files)
    while chunk := list(itertools.islice(remaining, _TOGETHER)):
        with quiet_stderr():  # libjpeg prints warnings about damaged files
            examples = in_threads(check, chunk)
        for example in examples:
            if isinstance(example, DataError):
                bad.add(str(example))
            else:
                yield example
    bad.warn()
