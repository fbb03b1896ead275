"""Images with masks: folders, and drawn shapes."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtfrun.data import DataError
from mtfrun.extras.vision import DrawnShapes, MaskFolders, SegmentationData

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
    with pytest.raises(DataError, match=r"masks/.*png has the class 3 of 3, from 0"):
        _source(folders).example("train", 0)
    _overwrite(folders, "L", (12, 9))
    with pytest.raises(DataError, match=r"is \(12, 9\) and its image \(12, 8\)"):
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


SMALL = DrawnShapes(sizes=(24, 32), num_train=40, num_evaluated=5)
VOLUMES = DrawnShapes(sizes=(12, 16, 20), num_train=6, num_evaluated=2, max_shapes=1, noise=0.0)


@pytest.mark.parametrize("source", [SMALL, VOLUMES])
def test_an_image_is_a_function_of_its_split_and_number(source: DrawnShapes) -> None:
    image, mask = source.example("train", 3)
    assert image.shape == source.size and image.dtype == np.uint8
    assert mask.shape == tuple(source.sizes) and mask.dtype == np.uint8
    again = source.example("train", 3)
    assert np.array_equal(image, again.image) and np.array_equal(mask, again.mask)
    others = [source.example("validation", 3), source.example("train", 4)]
    others.append(DrawnShapes(sizes=source.sizes, noise=source.noise, seed=1).example("train", 3))
    assert not any(np.array_equal(image, other.image) for other in others)


@pytest.mark.parametrize(("source", "count"), [(SMALL, 40), (VOLUMES, 30)])
def test_every_class_is_drawn_inside_of_images(source: DrawnShapes, count: int) -> None:
    masks = np.stack([source.example("train", i).mask for i in range(count)])
    assert set(np.unique(masks)) == {0, 1, 2, 3}
    assert 0.5 < (masks == 0).mean() < 0.99


def test_the_brightness_of_a_shape_is_even_and_differs_from_the_background() -> None:
    for number in range(20):
        image, mask = VOLUMES.example("train", number)
        inside, outside = image[..., 0][mask > 0], image[..., 0][mask == 0]
        assert len(set(inside)) == len(set(outside)) == 1
        assert abs(int(inside[0]) - int(outside[0])) >= 39


def test_a_disc_is_as_wide_as_high_and_a_rectangle_fills_its_box() -> None:
    source = DrawnShapes(sizes=(64, 64), max_shapes=1)
    for number in range(30):
        mask = source.example("train", number).mask
        places = np.argwhere(mask)
        height, width = places.max(axis=0) - places.min(axis=0) + 1
        share = len(places) / (height * width)
        label = source.class_names[mask.max()]
        if label == "disc":
            assert abs(height - width) <= 1 and abs(share - np.pi / 4) < 0.08
        elif label == "rectangle":
            assert share == 1.0
        else:
            assert share < 0.65


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (8,)}, "must be .depth,. rows and cols"),
        ({"sizes": (8, 0)}, "sizes"),
        ({"max_shapes": 0}, "max_shapes"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DrawnShapes(**settings)


def test_batches_have_the_images_of_their_split() -> None:
    data = SegmentationData(SMALL)
    assert data.model_arguments()["num_classes"] == 4
    batches = list(data.evaluation(4))
    assert [batch["weights"].tolist() for batch in batches] == [[1, 1, 1, 1], [1, 0, 0, 0]]
    image, mask = SMALL.example("validation", 4)
    assert np.array_equal(batches[1]["images"][0], image)
    assert np.array_equal(batches[1]["masks"][0], mask)
    shapes = {name: shape.to_integer_list[1:] for name, shape in data.shapes(4).items()}
    assert {name: list(x.shape[1:]) for name, x in batches[0].items()} == shapes
    first, second = (next(data.train(8, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first["images"], second["images"])
    with pytest.raises(DataError, match="valid"):
        next(data.evaluation(4, split="valid"))


def test_an_image_file_is_read_in_the_size_of_the_data(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "photo.png")
    Image.fromarray(np.full([48, 100, 3], 200, np.uint8)).save(path)
    image = SegmentationData(SMALL).read_image(path)
    assert image.shape == (24, 32, 1) and (image == 200).all()
    with pytest.raises(DataError, match="volumes are not read from files"):
        SegmentationData(VOLUMES).read_image(path)
