"""Folders of images: classes, splits, errors."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from mtfrun.data import DataError, ImageData, ImageFolders
from mtfrun.data.splits import split_of
from tests.data.images.photos import jpeg, photo, save_folders

NAMES = ("blue sky", "green", "red")
COUNT = 10


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    """Returns a directory with a folder for each class."""
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
    with pytest.raises(DataError, match=r"gren is not a class of train, which are .*did you mean"):
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
    fails("cat of a class holds no JPEG or PNG file")
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
