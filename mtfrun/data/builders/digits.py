"""TFDS dataset of handwritten digits, from a file that is part of this package."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

# One line per image: 64 pixels from 0 to 16 in row order, and the digit.
_FILE = Path(__file__).with_name("digits.csv.gz")
_SIZE = 8
_LARGEST = 16
_TEST_SHARE = 0.2


class Digits(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """1,797 handwritten digits of 8x8 pixels by 13 writers; 1,420 to train on, 377 to test.

    The test part of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998),
    UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, as scikit-learn ships it;
    digits_notice.txt has its licence. A hash of an image's number decides its split.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(_SIZE, _SIZE, 1)),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        table = read_digits()
        return {split: self._generate_examples(table, split) for split in ("train", "test")}

    def _generate_examples(
        self, table: np.ndarray, split: str
    ) -> Iterator[tuple[int, dict[str, object]]]:
        for number, line in enumerate(table):
            if digits_split(number) == split:
                pixels = line[:-1].reshape(_SIZE, _SIZE, 1) * 255 // _LARGEST
                yield number, {"image": pixels.astype(np.uint8), "label": int(line[-1])}


def read_digits() -> np.ndarray:
    """Returns int64 [1797, 65]: 64 pixels from 0 to 16, and the digit."""
    with gzip.open(_FILE, "rt", encoding="ascii") as lines:
        return np.loadtxt(lines, delimiter=",").astype(np.int64)


def digits_split(number: int) -> str:
    """Returns the split, "train" or "test", of the image with this number."""
    digest = hashlib.sha256(str(number).encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if fraction < _TEST_SHARE else "train"
