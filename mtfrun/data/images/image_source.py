"""The base class of sources of labelled images."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mtfrun.data.errors import DataError
from mtfrun.data.splits import check_split

# Rows, columns and channels; None for rows and columns that differ from image to image.
ImageSize = tuple[int | None, int | None, int]


class ImageExample(NamedTuple):
    """A labelled image.

    Attributes:
      content: where all images of the source have one size, the pixels: uint8, row by row, the
        channels of a pixel together. Otherwise a JPEG or PNG file, upright and of 8 bits, see
        `encoded_image`.
      label: the number of the class.
    """

    content: bytes
    label: int


class ImageSource(abc.ABC):
    """Labelled images in splits, in the same order every time.

    A source is read when a cache is built; nothing else reads it, so it need not be fast at random
    access. It must not hold all its images in memory.
    """

    @property
    @abc.abstractmethod
    def size(self) -> ImageSize:
        """Rows, columns and channels of every image; None for rows and columns that differ."""

    @property
    @abc.abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """The name of every class."""

    @property
    def title(self) -> str:
        """A short name, for messages."""
        return type(self).__name__

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[ImageExample]:
        """Yields the images of `split`, in order, once.

        Raises:
          DataError: there is no such split, or it cannot be read: the message names the file.
        """

    @abc.abstractmethod
    def fingerprint(self, split: str) -> object:
        """Returns what changes when the images may have changed, as JSON, without reading them.

        Raises:
          DataError: there is no such split, or no file.
        """

    def why_empty(self, split: str) -> str:
        """Returns why a split turned out to be empty, and the remedy."""
        return "choose another split"

    def check_split(self, split: str) -> None:
        """Raises DataError unless `split` is one of `splits`."""
        check_split(str(self), split, self.splits)


@dataclasses.dataclass(frozen=True)
class NoImages(ImageSource):
    """No images: a model classifies without any, and training says what is missing.

    Attributes:
      labels: the name of every class.
      channels: of the images to classify; 1 for grey, 3 for colour.

    Raises:
      DataError: images are read.
    """

    labels: Sequence[str]
    channels: int = 3

    @property
    def size(self) -> ImageSize:
        """Images of any size."""
        return None, None, self.channels

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of every class."""
        return tuple(self.labels)

    @property
    def splits(self) -> tuple[str, ...]:
        """None."""
        return ()

    def check_split(self, split: str) -> None:
        """Raises DataError."""
        raise DataError(
            "the configuration names no images to train on or to evaluate with: add a file of data "
            "behind it, such as --gin_file=data/image_folders.gin, or set --gin.TRAINING_IMAGES"
        )

    def examples(self, split: str) -> Iterator[ImageExample]:
        """Raises DataError."""
        self.check_split(split)
        return iter(())

    def fingerprint(self, split: str) -> object:
        """Raises DataError."""
        self.check_split(split)
        return None
