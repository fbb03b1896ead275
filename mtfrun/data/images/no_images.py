"""The source of a configuration that names no images yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.images.image_source import ImageExample, ImageSize, ImageSource


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

    def examples(self, split: str) -> Iterator[ImageExample]:
        """Raises DataError."""
        raise _no_images()

    def fingerprint(self, split: str) -> object:
        """Raises DataError."""
        raise _no_images()

    def check_split(self, split: str) -> None:
        """Raises DataError."""
        raise _no_images()


def _no_images() -> DataError:
    return DataError(
        "the configuration names no images to train on or to evaluate with: add a file of data "
        "behind it, such as --gin_file=data/image_folders.gin, or set --gin.TRAINING_IMAGES"
    )
