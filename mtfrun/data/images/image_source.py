"""The base class of sources of labelled images."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from mtfrun.data.sources.source import MissingSource, SplitSource

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
    """No images: a model classifies without any, and training says what is missing.

    Attributes:
      labels: the name of every class.
      channels: of the images to classify; 1 for grey, 3 for colour.
    """

    missing = "images"
    remedy = "--gin_file=data/image_folders.gin, or set --gin.TRAINING_IMAGES"

    labels: Sequence[str]
    channels: int = 3

    @property
    def size(self) -> ImageSize:
        return None, None, self.channels

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.labels)
