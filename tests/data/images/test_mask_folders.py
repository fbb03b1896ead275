"""Folders of images and masks are read as they are, and what does not fit is named."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from mtfrun.data import DataError, MaskFolders, SegmentationData

CLASSES = ("background", "cell", "wall")


@pytest.fixture
def folders(tmp_path: pathlib.Path) -> pathlib.Path:
    """40 images of 8x12 pixels in two folders, whose grey level is 10 times their class."""
    for name in ("images/a", "images/b", "masks/a", "masks/b"):
        (tmp_path / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(40):
        mask = rng.integers(0, 3, [8, 12]).astype(np.uint8)
        name = f"{'ab'[i % 2]}/{i}.png"
        Image.fromarray(10 * mask).save(tmp_path / "images" / name)
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path


def _source(folders: pathlib.Path, sizes: Sequence[int] = (8, 12)) -> MaskFolders:
    return MaskFolders(str(folders), CLASSES, sizes, channels=1)


def test_images_have_their_masks_and_every_image_is_in_one_split(folders: pathlib.Path) -> None:
    source = _source(folders)
    assert sum(source.count(split) for split in source.splits) == 40
    assert min(source.count(split) for split in source.splits) > 0
    for number in range(source.count("train")):
        image, mask = source.example("train", number)
        assert image.shape == (8, 12, 1) and np.array_equal(image[..., 0], 10 * mask)
    by_split = MaskFolders({"train": str(folders)}, CLASSES, (8, 12), channels=1)
    assert by_split.splits == ("train",) and by_split.count("train") == 40
    batch = next(SegmentationData(source).train(4, seed=0))
    assert np.array_equal(batch["images"][..., 0], 10 * batch["masks"])


def test_a_mask_is_scaled_and_cropped_as_its_image_and_keeps_its_classes(
    folders: pathlib.Path,
) -> None:
    mask = np.zeros([20, 40], np.uint8)
    mask[:, 20:] = 2
    Image.fromarray(100 * mask).save(folders / "images/a/0.png")
    with_palette = Image.fromarray(mask, "P")
    with_palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    with_palette.save(folders / "masks/a/0.png")
    source = MaskFolders({"train": str(folders)}, CLASSES, (10, 10))
    image, scaled = source.example("train", 0)
    expected = np.zeros([10, 10], np.uint8)
    expected[:, 5:] = 2
    assert np.array_equal(scaled, expected)
    assert image.shape == (10, 10, 3)
    assert np.array_equal(image[:, [0, 9], 0], 100 * expected[:, [0, 9]])


def _overwrite(folders: pathlib.Path, mode: str, size: tuple[int, int], value: int = 0) -> None:
    for path in (folders / "masks").rglob("*.png"):
        Image.new(mode, size, value).save(path)


def test_what_does_not_fit_is_named(folders: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _overwrite(folders, "L", (12, 8), value=3)
    with pytest.raises(DataError, match=r"masks/.*png has the class 3, and .* are 3, from 0"):
        _source(folders).example("train", 0)
    _overwrite(folders, "L", (12, 9))
    with pytest.raises(DataError, match="is 12 x 9, its image 12 x 8"):
        _source(folders).example("train", 0)
    _overwrite(folders, "RGB", (12, 8))
    with pytest.raises(DataError, match="is RGB: its pixels must be indices of classes"):
        _source(folders).example("train", 0)
    for path in (folders / "masks").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot read the image"):
        _source(folders).example("train", 0)
    (folders / "masks/a/0.png").unlink()
    with pytest.raises(DataError, match=r"images/a/0.png has no mask .*masks/a/0.png"):
        MaskFolders({"train": str(folders)}, CLASSES, (8, 12)).count("train")
    with pytest.raises(DataError, match="there is no JPEG or PNG file in"):
        _source(tmp_path / "elsewhere").count("train")
    with pytest.raises(DataError, match='has no split "valid"'):
        _source(folders).count("valid")
    with pytest.raises(DataError, match="must be rows and cols"):
        _source(folders, (8,))


def test_a_changed_file_changes_the_fingerprint(folders: pathlib.Path) -> None:
    before = _source(folders).fingerprint("validation")
    assert _source(folders).fingerprint("validation") == before
    _overwrite(folders, "L", (13, 9))
    assert _source(folders).fingerprint("validation") != before
