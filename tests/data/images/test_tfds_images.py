"""TFDS datasets as sources of images: the embedded digits, and those of a user."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtfrun.data import DataError, ImageData, TfdsImages
from mtfrun.data.builders.digits import read_digits
from mtfrun.data.builders.silence import silent_tfds


class PreparedImages(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """Three images, like any dataset that a user has prepared."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        """Returns the features; the size of a `drawing` is not fixed."""
        features = {
            "photo": tfds.features.Image(shape=(2, 3, 3)),
            "drawing": tfds.features.Image(),
            "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        """Returns one split of three examples."""
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, object]]]:
        """Yields grey images of increasing brightness."""
        for key in range(3):
            image = np.full([2, 3, 3], key, np.uint8)
            yield key, {"photo": image, "drawing": image, "kind": key % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns a data_dir in which a user has prepared a dataset."""
    directory = str(tmp_path_factory.mktemp("tfds"))
    with silent_tfds():
        PreparedImages(data_dir=directory).download_and_prepare()
    return directory


def test_the_digits_need_no_network(data_dir: str) -> None:
    source = TfdsImages("digits", data_dir=data_dir)
    assert source.size == (8, 8, 1)
    assert source.label_names == tuple("0123456789")
    examples = [
        (image.tobytes(), int(label))
        for split in ("train", "test")
        for image, label in source.examples(split).as_numpy_iterator()
    ]
    table = read_digits()
    assert table.shape == (1797, 65)
    assert table[:, :-1].min() == 0 and table[:, :-1].max() == 16
    pixels = (table[:, :-1] * 255 // 16).astype(np.uint8)
    expected = [
        (row.tobytes(), int(label)) for row, label in zip(pixels, table[:, -1], strict=True)
    ]
    assert sorted(examples) == sorted(expected)
    assert len(list(source.examples("test"))) == 377
    # Scikit-learn's load_digits().target[:10], and the count of each digit.
    assert table[:10, -1].tolist() == list(range(10))
    assert np.bincount(table[:, -1]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_any_prepared_dataset_is_a_source(data_dir: str) -> None:
    source = TfdsImages("prepared_images", "photo", "kind", data_dir=data_dir)
    data = ImageData(source)
    assert data.image.to_string == "rows:2;cols:3;channels:3"
    assert data.num_classes == 2
    examples = list(source.examples("train").as_numpy_iterator())
    assert [int(image[1, 2, 0]) for image, _ in examples] == [0, 1, 2]
    assert [int(label) for _, label in examples] == [0, 1, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("digit",), 'TFDS dataset "digit" is not prepared in .*did you mean .digits'),
        (("prepared_images",), 'has no Image feature "image"; it has drawing, photo'),
        (("prepared_images", "photo"), 'has no ClassLabel feature "label"; it has kind'),
        (("prepared_images", "drawing", "kind"), "images of different sizes"),
        (("prepared_images", "photo", "kind"), 'has no split "test"; it has train'),
    ],
)
def test_a_missing_dataset_or_feature_is_an_error_of_one_line(
    data_dir: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        dataclasses.replace(TfdsImages(*arguments), data_dir=data_dir).examples("test")
    assert "\n" not in str(caught.value)
