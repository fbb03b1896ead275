"""TFDS datasets as sources of images: the digits that come along, and those of a user."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtfrun.data import DataError, ImageData, TfdsImages
from mtfrun.data.builders.digits import read_digits
from mtfrun.data.silence import silent_tfds


class PreparedImages(tfds.core.GeneratorBasedBuilder):
    """Three pictures, like any dataset that a user has prepared."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        """The features; `drawing` has no size."""
        features = {
            "picture": tfds.features.Image(shape=(2, 3, 3)),
            "drawing": tfds.features.Image(),
            "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        """One split of three examples."""
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator:
        """Yields grey pictures, one brighter than the other."""
        for key in range(3):
            picture = np.full([2, 3, 3], key, np.uint8)
            yield key, {"picture": picture, "drawing": picture, "kind": key % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data_dir in which a user has prepared a dataset."""
    directory = str(tmp_path_factory.mktemp("tfds"))
    with silent_tfds():
        PreparedImages(data_dir=directory).download_and_prepare()
    return directory


def test_the_digits_are_there_without_a_network(data_dir: str) -> None:
    source = TfdsImages("digits", data_dir=data_dir)
    assert source.size == (8, 8, 1)
    assert source.label_names == tuple("0123456789")
    found = [
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
    assert sorted(found) == sorted(expected)
    assert len(list(source.examples("test"))) == 377
    # Scikit-learn's load_digits().target[:10], and the number of each digit.
    assert table[:10, -1].tolist() == list(range(10))
    assert np.bincount(table[:, -1]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_any_prepared_dataset_will_do(data_dir: str) -> None:
    source = TfdsImages("prepared_images", "picture", "kind", data_dir=data_dir)
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
        (("prepared_images",), 'has no Image feature "image"; it has drawing, picture'),
        (("prepared_images", "picture"), 'has no ClassLabel feature "label"; it has kind'),
        (("prepared_images", "drawing", "kind"), "images of different sizes"),
        (("prepared_images", "picture", "kind"), 'has no split "test"; it has train'),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    data_dir: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        TfdsImages(*arguments, data_dir=data_dir).examples("test")
    assert "\n" not in str(caught.value)
