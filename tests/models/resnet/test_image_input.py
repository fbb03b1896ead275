"""Normalisation and augmentation of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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


def _draw_of(before: np.ndarray, after: np.ndarray, flipped: Sequence[int]) -> tuple[int, ...]:
    """Returns the offset along every axis, and its direction, 1 or -1, that make an image."""
    sizes = before.shape[:-1]
    padded = np.pad(before, [(PADDING, PADDING)] * len(sizes) + [(0, 0)])
    directions = [(1, -1) if axis in flipped else (1,) for axis in range(len(sizes))]
    offsets = itertools.product(range(2 * PADDING + 1), repeat=len(sizes))
    (draw,) = [
        (*offset, *steps)
        for offset, steps in itertools.product(offsets, itertools.product(*directions))
        if np.array_equal(
            padded[tuple(slice(o, o + size) for o, size in zip(offset, sizes, strict=True))][
                tuple(slice(None, None, step) for step in steps)
            ],
            after,
        )
    ]
    return draw


@pytest.mark.parametrize(
    ("shape", "flip", "flipped"),
    [(SHAPE, False, ()), (SHAPE, True, (1,)), (VOLUMES, ALL_AXES, (0, 1, 2))],
)
def test_every_image_is_shifted_and_flipped_independently(
    shape: mtf.Shape, flip: bool | Sequence[str], flipped: Sequence[int]
) -> None:
    mesh, images = mtf.Mesh(ONE_DEVICE), _images(shape)
    image_input = ImageInput(mean=0.0, stddev=1.0, crop_padding=PADDING, flip=flip)
    augmented = _run(mesh, image_input, images, shape=shape)
    draws = {_draw_of(*pair, flipped) for pair in zip(images, augmented, strict=True)}
    num_axes = shape.ndims - 2
    for axis in range(num_axes):
        assert {draw[axis] for draw in draws} == {0, 1, 2}
    # The draws of an axis say nothing about another one.
    assert len({draw[num_axes:] for draw in draws}) == 2 ** len(flipped)
    assert not np.array_equal(augmented, _run(mesh, image_input, images, 1, shape))


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
