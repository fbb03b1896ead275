"""Labelled images in IDX files, the format of MNIST and its successors."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from mtfrun.data.errors import DataError
from mtfrun.data.splits import check_split

# Prefixes of the files' names; "t10k" stands for 10,000 test images.
_PREFIXES = {"train": "train", "test": "t10k"}
# An IDX file begins with two zeros, the type, 8 for uint8, and the number of dimensions.
_UINT8 = 8


@dataclasses.dataclass(frozen=True)
class IdxImages:
    """An ImageSource of four IDX files, compressed by gzip or not, in one directory.

    Attributes:
      directory: has `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two of `t10k`, as
        of MNIST, Fashion-MNIST (in Debian's package dataset-fashion-mnist) and KMNIST.
      num_classes: upper bound of the labels, exclusive.
    """

    directory: str
    num_classes: int = 10

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, columns and channels of every image."""
        images, _ = _read_split(self.directory, "train", self.num_classes)
        rows, cols = images.shape[1:]
        return rows, cols, 1

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of every class: its number."""
        return tuple(str(label) for label in range(self.num_classes))

    def examples(self, split: str) -> tf.data.Dataset:
        """Returns pairs of an image, uint8, and its label, int32, in order, once."""
        check_split(f"the directory {self.directory}", split, tuple(_PREFIXES))
        images, labels = _read_split(self.directory, split, self.num_classes)
        return tf.data.Dataset.from_tensor_slices(
            (np.expand_dims(images, -1), labels.astype(np.int32))
        )


@functools.lru_cache(maxsize=4)
def _read_split(directory: str, split: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    prefix = Path(directory).expanduser() / _PREFIXES[split]
    images = read_idx(f"{prefix}-images-idx3-ubyte", 3)
    labels = read_idx(f"{prefix}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise DataError(f"{prefix}-*: there are {len(images)} images, but {len(labels)} labels")
    if labels.size and labels.max() >= num_classes:
        raise DataError(
            f"{prefix}-labels-idx1-ubyte has the label {labels.max()}: IdxImages.num_classes, "
            f"{num_classes}, must be larger"
        )
    return images, labels


def read_idx(path: str, num_dims: int) -> np.ndarray:
    """Returns the uint8 array of the IDX file `path` or `path`.gz.

    http://yann.lecun.com/exdb/mnist/ describes the format.

    Raises:
      DataError: there is no such file, or it is not an IDX file.
    """
    compressed = f"{path}.gz"
    try:
        content = Path(path).read_bytes() if Path(path).exists() else _decompressed(compressed)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read {path} or {compressed}: {reason}") from error
    header = 4 + 4 * num_dims
    if content[:4] != bytes([0, 0, _UINT8, num_dims]) or len(content) < header:
        raise DataError(f"{path} is no IDX file of bytes with {num_dims} dimension(s)")
    sizes = np.frombuffer(content, ">u4", num_dims, offset=4).tolist()
    if len(content) - header != math.prod(sizes):
        raise DataError(f"{path} has {len(content) - header} bytes of data, not {sizes}: damaged")
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)


def _decompressed(path: str) -> bytes:
    with gzip.open(path) as file:
        try:
            return file.read()
        except EOFError as error:
            raise DataError(f"{path} is truncated: download it again") from error
