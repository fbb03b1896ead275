"""Images in IDX files."""

from __future__ import annotations

import gzip
import pathlib
import struct

import numpy as np
import pytest

from mtfrun.data import DataError, IdxImages, ImageData

IMAGES = {
    "train": np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3),
    "t10k": np.full([2, 2, 3], 200, np.uint8),
}
LABELS = {"train": np.array([0, 1, 2, 1, 0], np.uint8), "t10k": np.array([2, 2], np.uint8)}


def _idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    """Returns a directory of the four files, those of the test split compressed."""
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
    directory: pathlib.Path, split: str, prefix: str
) -> None:
    source = IdxImages(str(directory), num_classes=3)
    examples = list(source.examples(split))
    assert b"".join(example.content for example in examples) == IMAGES[prefix].tobytes()
    assert [example.label for example in examples] == LABELS[prefix].tolist()
    assert source.splits == ("train", "test")
    data = ImageData(source)
    assert data.image.to_string == "rows:2;cols:3;channels:1"
    assert len(data.label_names) == 3


def test_each_defect_is_an_error_of_one_line(directory: pathlib.Path) -> None:
    def fails(message: str, split: str = "train", num_classes: int = 10) -> None:
        with pytest.raises(DataError, match=message) as caught:
            list(IdxImages(str(directory), num_classes).examples(split))
        assert "\n" not in str(caught.value)

    fails('has no split "validation"; it has train, test', "validation")
    fails("has the label 2: IdxImages.num_classes, 2, must be larger", num_classes=2)
    compressed = directory / "t10k-images-idx3-ubyte.gz"
    compressed.write_bytes(compressed.read_bytes()[:-9])
    fails("cannot be read: .* is it damaged", "test")
    labels = directory / "train-labels-idx1-ubyte"
    labels.write_bytes(_idx(LABELS["train"][:4]))
    fails("has 5 images, but there are 4 labels")
    labels.write_bytes(_idx(LABELS["train"])[:-1])
    fails("has 4 bytes of data, not \\[5\\]: damaged")
    labels.write_bytes(b"GIF89a")
    fails("is not an IDX file of bytes with 1 dimension")
    labels.unlink()
    fails("cannot read .*train-labels-idx1-ubyte or .*gz: No such file")


def test_the_fingerprint_changes_with_the_files(directory: pathlib.Path) -> None:
    source = IdxImages(str(directory), num_classes=3)
    before = {split: source.fingerprint(split) for split in source.splits}
    assert before == {split: source.fingerprint(split) for split in source.splits}
    assert before["train"] != before["test"]
    assert before["train"] != IdxImages(str(directory), num_classes=4).fingerprint("train")
    path = directory / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"0")
    assert before["train"] != source.fingerprint("train")
    assert before["test"] == source.fingerprint("test")
