"""TFDS datasets as sources of images: the embedded digits, and those of a user."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mtfrun.data import DataError, ImageData, TfdsImages
from mtfrun.data.sources.embedded_datasets import read_digits
from mtfrun.data.sources.tfds_dataset import silent_tfds


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
            drawing = np.full([2 + key, 3, 3], key, np.uint8)
            yield key, {"photo": image, "drawing": drawing, "kind": key % 2}


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
    examples = [tuple(e) for split in source.splits for e in source.examples(split)]
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
    assert len(data.label_names) == 2
    examples = list(source.examples("train"))
    assert [example.content for example in examples] == [bytes([i] * 18) for i in range(3)]
    assert [example.label for example in examples] == [0, 1, 0]


def test_images_of_many_sizes_are_files(data_dir: str) -> None:
    source = TfdsImages("prepared_images", "drawing", "kind", data_dir=data_dir)
    assert source.size == (None, None, 3)
    for i, example in enumerate(source.examples("train")):
        with Image.open(io.BytesIO(example.content)) as image:
            assert np.asarray(image).tolist() == np.full([2 + i, 3, 3], i).tolist()
    with pytest.raises(DataError, match=r"have different sizes: set ImageData\.image_size"):
        _ = ImageData(source).image
    data = ImageData(source, image_size=2)
    (batch,) = data.evaluation(4, split="train")
    assert batch["images"][:, 1, 1, 2].tolist() == [0, 1, 2, 0]
    assert batch["weights"].tolist() == [1, 1, 1, 0]


def test_the_fingerprint_changes_with_what_is_read(data_dir: str) -> None:
    sources = [
        TfdsImages("prepared_images", feature, "kind", data_dir=data_dir)
        for feature in ("photo", "photo", "drawing")
    ]
    same, again, other = (source.fingerprint("train") for source in sources)
    assert same == again != other
    assert same != sources[0].fingerprint("train[:2]")
    assert len(list(sources[0].examples("train[:2]"))) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("digit",), 'TFDS dataset "digit" is not prepared in .*did you mean .digits'),
        (("prepared_images",), 'has no Image feature "image"; it has drawing, photo'),
        (("prepared_images", "photo"), 'has no ClassLabel feature "label"; it has kind'),
        (("prepared_images", "photo", "kind"), 'has no split "test"; it has train'),
    ],
)
def test_a_missing_dataset_or_feature_is_an_error_of_one_line(
    data_dir: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(dataclasses.replace(TfdsImages(*arguments), data_dir=data_dir).examples("test"))
    assert "\n" not in str(caught.value)
