"""Labelled images in IDX files, the format of MNIST and its successors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.files import absolute_path, file_states
from mtfrun.data.images.image_source import ImageExample, ImageSize, ImageSource
from mtfrun.data.sources.streams import blocks

# Prefixes of the files' names; "t10k" stands for 10,000 test images.
_PREFIXES = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
# An IDX file begins with two zeros, the type, 8 for uint8, and the number of dimensions.
_UINT8 = 8


@dataclasses.dataclass(frozen=True)
class IdxImages(ImageSource):
    """Images in four IDX files, compressed by gzip or not, in one directory.

    Attributes:
      directory: has `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two of `t10k`, as
        of MNIST, Fashion-MNIST (in Debian's package dataset-fashion-mnist) and KMNIST.
      num_classes: upper bound of the labels, exclusive.
    """

    directory: str
    num_classes: int = 10

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.directory!r})"

    @property
    def size(self) -> ImageSize:
        _, rows, cols = _sizes(self._path("train", _IMAGES), 3)
        return rows, cols, 1

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(str(label) for label in range(self.num_classes))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(_PREFIXES)

    def examples(self, split: str) -> Iterator[ImageExample]:
        self.check_split(split)
        images_path, labels_path = (self._path(split, name) for name in (_IMAGES, _LABELS))
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            counts = f"{len(images)} images, and {labels_path} {len(labels)} labels"
            raise DataError(f"{images_path} has {counts}: name the files of one set")
        if labels.size and labels.max() >= self.num_classes:
            rule = f"IdxImages.num_classes, {self.num_classes}, must be larger"
            raise DataError(f"{labels_path} has the label {labels.max()}: {rule}")
        if images.shape[1:] != self.size[:2]:
            sizes = f"images of {images.shape[1:]} pixels, the files of training {self.size[:2]}"
            raise DataError(f"{images_path} has {sizes}")
        for image, label in zip(images, labels.tolist(), strict=True):
            yield ImageExample(image.tobytes(), label)

    def fingerprint(self, split: str) -> object:
        self.check_split(split)
        files = file_states(self._path(split, name) for name in (_IMAGES, _LABELS))
        return {"source": type(self).__name__, "num_classes": self.num_classes, "files": files}

    def _path(self, split: str, name: str) -> str:
        path = absolute_path(self.directory) / f"{_PREFIXES[split]}-{name}"
        for candidate in (path, path.with_name(f"{path.name}.gz")):
            if candidate.is_file():
                return str(candidate)
        raise DataError(f"cannot read {path} or {path}.gz: No such file")


def read_idx(path: str, num_dims: int) -> np.ndarray:
    """Returns the uint8 array of a file; http://yann.lecun.com/exdb/mnist/."""
    sizes, header_bytes = _sizes(path, num_dims), 4 + 4 * num_dims
    expected = math.prod(sizes)
    # One byte more, of which a compressed file may make any number.
    content = b"".join(blocks(path, header_bytes, expected + 1, is_raw=True))
    if len(content) != expected:
        actual = "more" if len(content) > expected else len(content)
        raise DataError(f"{path} has {actual} bytes of data, not {sizes}: damaged")
    return np.frombuffer(content, np.uint8).reshape(sizes)


def _sizes(path: str, num_dims: int) -> list[int]:
    header = b"".join(blocks(path, 0, 4 + 4 * num_dims, is_raw=True))
    if header[:4] != bytes([0, 0, _UINT8, num_dims]) or len(header) < 4 + 4 * num_dims:
        raise DataError(f"{path} is not an IDX file of bytes with {num_dims} dimension(s)")
    return [int(size) for size in np.frombuffer(header, ">u4", num_dims, offset=4)]
