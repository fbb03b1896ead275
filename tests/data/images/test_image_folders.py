"""Sources of images: folders, IDX files, TFDS."""

from __future__ import annotations

import dataclasses
import gzip
import io
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mtfrun.data import DataError, IdxImages, ImageData, ImageFolders, NoImages, TfdsImages
from mtfrun.data.sources.embedded_datasets import read_digits
from mtfrun.data.sources.tfds_dataset import silent_tfds
from mtfrun.data.splits import split_of
from tests.data.images.photos import jpeg, photo, save_folders

NAMES = ("blue sky", "green", "red")
COUNT = 10


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    save_folders(tmp_path / "images", NAMES, COUNT)
    return tmp_path / "images"


def test_every_image_is_in_one_split_with_the_label_of_its_folder(directory: pathlib.Path) -> None:
    (directory / "green" / "nested").mkdir()
    (directory / "green" / "nested" / "a.jpg").write_bytes(jpeg(photo(9, 9)))
    (directory / "notes.txt").write_text("no image")
    (directory / "green" / ".hidden.jpg").write_text("no image")
    source = ImageFolders(str(directory))
    assert source.label_names == NAMES
    assert source.size == (None, None, 3)
    for split in source.splits:
        files = [
            path
            for path in sorted(directory.rglob("*"))
            if path.suffix in (".JPEG", ".jpg", ".png") and path.name != ".hidden.jpg"
            if split_of(path.relative_to(directory).as_posix()) == split
        ]
        examples = list(source.examples(split))
        labels = [NAMES.index(path.relative_to(directory).parts[0]) for path in files]
        assert [example.label for example in examples] == labels
        for example, path in zip(examples, files, strict=True):
            with Image.open(path) as expected, Image.open(io.BytesIO(example.content)) as actual:
                np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))
    assert sum(len(list(source.examples(split))) for split in source.splits) == 3 * COUNT + 1


def test_a_mapping_names_the_directory_of_each_split(tmp_path: pathlib.Path) -> None:
    save_folders(tmp_path / "train", NAMES, 2)
    save_folders(tmp_path / "val", NAMES[1:], 3)
    source = ImageFolders({"train": str(tmp_path / "train"), "validation": str(tmp_path / "val")})
    assert source.splits == ("train", "validation")
    assert [example.label for example in source.examples("train")] == [0, 0, 1, 1, 2, 2]
    assert [example.label for example in source.examples("validation")] == [1, 1, 1, 2, 2, 2]
    (tmp_path / "val" / "gren").mkdir()
    with pytest.raises(DataError, match=r'train has no class "gren"; it has .*did you mean'):
        list(source.examples("validation"))
    with pytest.raises(DataError, match='no split "test"; it has train, validation'):
        source.examples("test")
    with pytest.raises(DataError, match=r"are splits, not classes: set ImageFolders.directory ="):
        _ = ImageFolders(str(tmp_path)).label_names


def test_folders_without_images_are_errors_of_one_line(tmp_path: pathlib.Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            ImageData(ImageFolders(str(tmp_path / "images")), 8).train(1, seed=0)
        assert "\n" not in str(caught.value)

    fails("cannot read the folder .*images: No such file")
    (tmp_path / "images").mkdir()
    fails("holds no images in folders")
    (tmp_path / "images" / "cat").mkdir()
    fails("images has one class, cat: it must have a folder for each class")
    (tmp_path / "images" / "dog").mkdir()
    fails("cat has no JPEG or PNG file")
    # Not by its hash in the training split.
    for folder in ("cat", "dog"):
        places = (f"{folder}/{i}.jpg" for i in range(99))
        place = next(place for place in places if split_of(place) == "validation")
        (tmp_path / "images" / place).write_bytes(jpeg(photo(9, 9)))
    fails(
        'split "train" of ImageFolders.* holds no images: .* 80% .* there are 2; add more, or give'
    )


def test_damaged_images_are_named_and_may_be_left_out(directory: pathlib.Path) -> None:
    files = sorted((directory / "red").iterdir())
    train = [file for file in files if split_of(f"red/{file.name}") == "train"]
    train[0].write_bytes(train[0].read_bytes()[:300])
    message = f"cannot read the image {train[0]}: broken.*skip_bad_records=1 or more"
    with pytest.raises(DataError, match=message) as caught:
        ImageData(ImageFolders(str(directory)), 8).train(1, seed=0)
    assert "\n" not in str(caught.value)
    tolerant = ImageFolders(str(directory), skip_bad_records=1)
    whole = list(tolerant.examples("train"))
    assert [example.label for example in whole].count(2) == len(train) - 1
    train[1].write_text("text")
    with pytest.raises(DataError, match="skip_bad_records=2 or more"):
        list(tolerant.examples("train"))


def test_the_fingerprint_changes_with_the_files_of_the_split(directory: pathlib.Path) -> None:
    source = ImageFolders(str(directory))
    before = {split: source.fingerprint(split) for split in source.splits}
    name = next(f"{i}.jpg" for i in range(99) if split_of(f"red/{i}.jpg") == "test")
    (directory / "red" / name).write_bytes(jpeg(photo(9, 9)))
    changed = [split for split in source.splits if source.fingerprint(split) != before[split]]
    assert changed == ["test"]


IMAGES = {
    "train": np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3),
    "t10k": np.full([2, 2, 3], 200, np.uint8),
}
LABELS = {"train": np.array([0, 1, 2, 1, 0], np.uint8), "t10k": np.array([2, 2], np.uint8)}


def _idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def idx_directory(tmp_path: pathlib.Path) -> pathlib.Path:
    for prefix, images in IMAGES.items():
        for name, array in (("images-idx3", images), ("labels-idx1", LABELS[prefix])):
            path = tmp_path / f"{prefix}-{name}-ubyte"
            if prefix == "train":
                path.write_bytes(_idx(array))
            else:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(_idx(array)))
    return tmp_path


@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_images_and_labels_are_those_of_the_files(
    idx_directory: pathlib.Path, split: str, prefix: str
) -> None:
    source = IdxImages(str(idx_directory), num_classes=3)
    examples = list(source.examples(split))
    assert b"".join(example.content for example in examples) == IMAGES[prefix].tobytes()
    assert [example.label for example in examples] == LABELS[prefix].tolist()
    assert source.splits == ("train", "test")
    data = ImageData(source)
    assert data.image.to_string == "rows:2;cols:3;channels:1"
    assert len(data.label_names) == 3


def test_each_defect_is_an_error_of_one_line(idx_directory: pathlib.Path) -> None:
    def fails(message: str, split: str = "train", num_classes: int = 10) -> None:
        with pytest.raises(DataError, match=message) as caught:
            list(IdxImages(str(idx_directory), num_classes).examples(split))
        assert "\n" not in str(caught.value)

    fails('has no split "validation"; it has train, test', "validation")
    fails("has the label 2: IdxImages.num_classes, 2, must be larger", num_classes=2)
    compressed = idx_directory / "t10k-images-idx3-ubyte.gz"
    compressed.write_bytes(compressed.read_bytes()[:-9])
    fails("cannot be read: .* is it damaged", "test")
    labels = idx_directory / "train-labels-idx1-ubyte"
    labels.write_bytes(_idx(LABELS["train"][:4]))
    fails("has 5 images, and .* 4 labels")
    labels.write_bytes(_idx(LABELS["train"])[:-1])
    fails("has 4 bytes of data, not \\[5\\]: damaged")
    labels.write_bytes(b"GIF89a")
    fails("is not an IDX file of bytes with 1 dimension")
    labels.unlink()
    fails("cannot read .*train-labels-idx1-ubyte or .*gz: No such file")


def test_the_fingerprint_changes_with_the_files(idx_directory: pathlib.Path) -> None:
    source = IdxImages(str(idx_directory), num_classes=3)
    before = {split: source.fingerprint(split) for split in source.splits}
    assert before == {split: source.fingerprint(split) for split in source.splits}
    assert before["train"] != before["test"]
    assert before["train"] != IdxImages(str(idx_directory), num_classes=4).fingerprint("train")
    path = idx_directory / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"0")
    assert before["train"] != source.fingerprint("train")
    assert before["test"] == source.fingerprint("test")


def test_a_model_knows_its_classes_and_reading_names_the_remedy() -> None:
    data = ImageData(NoImages(["cat", "dog"], channels=1), image_size=8)
    assert data.label_names == ("cat", "dog")
    assert data.image.to_integer_list == [8, 8, 1]
    with pytest.raises(DataError, match=r"names no images .* --gin_file=data/image_folders\.gin"):
        data.rows("train")
    with pytest.raises(DataError, match="names no images"):
        data.fingerprint()


class PreparedImages(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """Three images, like any dataset that a user has prepared."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
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
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, object]]]:
        for key in range(3):
            image = np.full([2, 3, 3], key, np.uint8)
            drawing = np.full([2 + key, 3, 3], key, np.uint8)
            yield key, {"photo": image, "drawing": drawing, "kind": key % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
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
