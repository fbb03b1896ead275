"""Normalisation and augmentation of images."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call
from mtfrun.models.resnet import ImageInput
from tests.layouts import ONE_DEVICE, assert_close

BATCH = 64
SHAPE = mtf.convert_to_shape(f"batch:{BATCH};rows:5;cols:6;channels:2")
PADDING = 1
VOLUMES = mtf.convert_to_shape(f"batch:{BATCH};depth:2;rows:4;cols:4;channels:1")
ALL_AXES = ("depth", "rows", "cols")


def _run(
    mesh: mtf.Mesh,
    image_input: ImageInput,
    images: np.ndarray,
    seed: int = 0,
    shape: mtf.Shape = SHAPE,
) -> np.ndarray:
    def run(images: mtf.Tensor) -> mtf.Tensor:
        return image_input(images, Call(training=True, key=mtf.random_key(seed)))

    return mtf.to_numpy(mtf.function(run)(mtf.import_tf_tensor(mesh, images, shape)))


def _images(shape: mtf.Shape = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, shape.to_integer_list).astype(np.uint8)


def test_pixels_are_normalised_by_channel() -> None:
    images = _images()
    image_input = ImageInput(mean=[1.0, 2.0], stddev=[3.0, 4.0])
    normalised = _run(mtf.Mesh(ONE_DEVICE), image_input, images)
    assert_close(normalised, (images - np.array([1.0, 2.0])) / np.array([3.0, 4.0]))
    with pytest.raises(ValueError, match=r"ImageInput\.mean has 3 numbers for 2 channels"):
        _run(mtf.Mesh(ONE_DEVICE), ImageInput(mean=[1.0, 2.0, 3.0]), images)


def _crops(image: np.ndarray, flip: bool) -> dict[tuple[int, int, bool], np.ndarray]:
    """Returns every possible augmentation of an image, by (row offset, col offset, flipped)."""
    padded = np.pad(image, [(PADDING, PADDING), (PADDING, PADDING), (0, 0)])
    rows, cols, _ = image.shape
    crops = {}
    for i in range(2 * PADDING + 1):
        for j in range(2 * PADDING + 1):
            crop = padded[i : i + rows, j : j + cols]
            crops[i, j, False] = crop
            if flip:
                # Flipped first, then shifted: the same set of images.
                crops[i, j, True] = crop[:, ::-1]
    return crops


@pytest.mark.parametrize("flip", [False, True])
def test_every_image_is_shifted_and_flipped_independently(flip: bool) -> None:
    images = _images()
    image_input = ImageInput(mean=0.0, stddev=1.0, crop_padding=PADDING, flip=flip)
    augmented = _run(mtf.Mesh(ONE_DEVICE), image_input, images)
    drawn = set()
    for before, after in zip(images, augmented, strict=True):
        crops = _crops(before.astype(np.float32), flip)
        (crop_key,) = [key for key, crop in crops.items() if np.array_equal(crop, after)]
        drawn.add(crop_key)
    assert {key[0] for key in drawn} == {key[1] for key in drawn} == {0, 1, 2}
    assert {key[2] for key in drawn} == ({False, True} if flip else {False})
    assert not np.array_equal(augmented, _run(mtf.Mesh(ONE_DEVICE), image_input, images, 1))


def _move(
    padded: np.ndarray, offsets: tuple[int, ...], steps: tuple[int, ...], sizes: tuple[int, ...]
) -> np.ndarray:
    """Returns the crop of these sizes at the offsets, in the direction of each step, 1 or -1."""
    crop = padded[tuple(slice(i, i + size) for i, size in zip(offsets, sizes[:-1], strict=True))]
    return crop[tuple(slice(None, None, step) for step in steps)]


def test_volumes_are_shifted_and_flipped_along_every_axis() -> None:
    volumes = _images(VOLUMES)
    image_input = ImageInput(mean=0.0, stddev=1.0, crop_padding=PADDING, flip=ALL_AXES)
    augmented = _run(mtf.Mesh(ONE_DEVICE), image_input, volumes, shape=VOLUMES)
    drawn = set()
    for before, after in zip(volumes, augmented, strict=True):
        padded = np.pad(before, [(PADDING, PADDING)] * 3 + [(0, 0)])
        every = itertools.product(
            itertools.product(range(2 * PADDING + 1), repeat=3),
            itertools.product([1, -1], repeat=3),
        )
        (match,) = [
            (*offsets, *steps)
            for offsets, steps in every
            if np.array_equal(_move(padded, offsets, steps, before.shape), after)
        ]
        drawn.add(match)
    for axis in range(3):
        assert {match[axis] for match in drawn} == {0, 1, 2}
        assert {match[3 + axis] for match in drawn} == {1, -1}
    # The draws of an axis say nothing about another one.
    assert len({match[3:] for match in drawn}) == 8


def test_cutout_makes_a_square_of_every_image_the_mean() -> None:
    images = np.maximum(_images(), 1)
    cut = _run(mtf.Mesh(ONE_DEVICE), ImageInput(mean=0.0, stddev=1.0, cutout=4), images)
    extents = set()
    for before, after in zip(images, cut, strict=True):
        square = (after == 0).all(-1)
        rows, cols = square.any(1), square.any(0)
        np.testing.assert_array_equal(square, np.outer(rows, cols))
        np.testing.assert_array_equal(after[~square], before[~square])
        extents.add((np.nonzero(rows)[0].min(), np.count_nonzero(rows), np.count_nonzero(cols)))
    # Centres are uniform over the image: squares of 4, of which up to a half is outside.
    sizes = {extent[1:] for extent in extents}
    assert {size[0] for size in sizes} == {size[1] for size in sizes} == {2, 3, 4}
    assert {extent[0] for extent in extents} == {0, 1, 2}
    plain = _run(mtf.Mesh(ONE_DEVICE), ImageInput(mean=0.0, stddev=1.0), images)
    np.testing.assert_array_equal(plain, images)
    with pytest.raises(InputError, match="cutout is -1: it must be an integer"):
        ImageInput(cutout=-1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": ["x", "y"]}, "mean is 'x': it must be at least"),
        ({"mean": "abc"}, "mean is 'a': it must be at least"),
        ({"stddev": [1.0, 0.0]}, "stddev is 0.0: it must be more than 0"),
    ],
)
def test_pixels_are_normalised_by_numbers(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageInput(**settings)


@pytest.mark.parametrize("flip", ["cols", ["columns"], 1])
def test_what_is_no_list_of_dimensions_is_not_flipped(flip: Any) -> None:
    with pytest.raises(InputError, match="must be True, False or a list of spatial dimensions"):
        ImageInput(flip=flip)


def test_an_image_has_no_depth_to_flip() -> None:
    with pytest.raises(InputError, match='has "depth", and images have rows, cols'):
        _run(mtf.Mesh(ONE_DEVICE), ImageInput(flip=["rows", "depth"]), _images())


def test_augmentation_without_a_key_is_an_error() -> None:
    image = mtf.zeros(mtf.Mesh(ONE_DEVICE), SHAPE)
    with pytest.raises(InputError, match="augmentation needs a key in training"):
        ImageInput(flip=True)(image, Call(training=True))


@pytest.mark.parametrize("mesh_shape", ["data:2,model:1", "data:2,model:2", "data:8,model:1"])
def test_augmentation_is_the_same_under_every_layout(mesh_shape: str) -> None:
    image_input = ImageInput(crop_padding=PADDING, flip=True, cutout=2)
    expected = _run(mtf.Mesh(ONE_DEVICE), image_input, _images())
    augmented = _run(mtf.Mesh(mesh_shape, "batch:data;channels:model"), image_input, _images())
    assert_close(augmented, expected)


@pytest.mark.parametrize(
    "layout",
    ["batch:data;rows:model", pytest.param("depth:data;rows:model", marks=pytest.mark.slow)],
)
def test_volumes_are_augmented_alike_under_every_layout(layout: str) -> None:
    image_input = ImageInput(crop_padding=PADDING, flip=ALL_AXES)
    volumes = _images(VOLUMES)
    expected = _run(mtf.Mesh(ONE_DEVICE), image_input, volumes, shape=VOLUMES)
    augmented = _run(mtf.Mesh("data:2,model:2", layout), image_input, volumes, shape=VOLUMES)
    assert_close(augmented, expected)
