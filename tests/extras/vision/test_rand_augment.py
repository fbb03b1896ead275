"""RandAugment: its operations, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mtfrun.errors import InputError
from mtfrun.extras.vision.rand_augment import OPERATIONS, RandAugment
from tests.data.images.photos import photo

ROWS, COLS = 20, 30
PHOTO = photo(ROWS, COLS, 3)
GREY = 128


def _applied(name: str, strength: float, pixels: np.ndarray = PHOTO) -> np.ndarray:
    return np.asarray(OPERATIONS[name](Image.fromarray(pixels), strength)).astype(int)


@pytest.mark.parametrize(
    "name", sorted(OPERATIONS.keys() - {"auto_contrast", "equalize", "identity"})
)
def test_a_larger_magnitude_changes_more_and_a_direction_otherwise(name: str) -> None:
    changes = [np.abs(_applied(name, x) - PHOTO).mean() for x in (0.0, 0.2, 0.5, 1.0)]
    assert 0 == changes[0] <= changes[1] < changes[2] < changes[3]
    has_direction = name not in ("solarize", "posterize")
    assert np.array_equal(_applied(name, 1.0), _applied(name, -1.0)) != has_direction


def test_operations_on_values_are_those_of_numpy() -> None:
    pixels = PHOTO.astype(int)
    np.testing.assert_array_equal(_applied("posterize", 1.0), pixels & 0b11110000)
    np.testing.assert_array_equal(
        _applied("solarize", 0.5), np.where(pixels < 128, pixels, 255 - pixels)
    )
    np.testing.assert_allclose(
        _applied("brightness", 0.5), np.clip(pixels * 1.45, 0, 255), atol=1.0
    )
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    np.testing.assert_allclose(
        _applied("auto_contrast", 1.0), (pixels - low) * 255 / (high - low), atol=1.0
    )
    luma = np.asarray(Image.fromarray(PHOTO).convert("L")).astype(int)
    without_colour = pixels + (luma[:, :, np.newaxis] - pixels) * 0.9
    np.testing.assert_allclose(_applied("color", -1.0), without_colour, atol=1.0)
    grey = int(luma.mean() + 0.5)
    np.testing.assert_allclose(_applied("contrast", -1.0), grey + (pixels - grey) * 0.1, atol=1.0)
    for channel in _applied("equalize", 1.0).transpose(2, 0, 1):
        # Ranks become values: nearly as many below the middle as above it.
        assert abs((channel < 128).mean() - 0.5) < 0.1


def test_movements_are_those_of_numpy_and_leave_grey() -> None:
    shift = round(150 / 331 * COLS)
    moved = _applied("translate_x", 1.0)
    np.testing.assert_array_equal(moved[:, : COLS - shift], PHOTO[:, shift:])
    assert (moved[:, COLS - shift :] == GREY).all()
    shift = round(150 / 331 * ROWS)
    moved = _applied("translate_y", -1.0)
    np.testing.assert_array_equal(moved[shift:], PHOTO[: ROWS - shift])
    assert (moved[:shift] == GREY).all()
    sheared = _applied("shear_x", 1.0)
    np.testing.assert_array_equal(sheared[0], PHOTO[0])
    np.testing.assert_array_equal(sheared[10, : COLS - 3], PHOTO[10, 3:])
    back = _applied("rotate", -1.0, _applied("rotate", 1.0).astype(np.uint8))
    # The centre is where it was, but for two roundings to whole pixels.
    assert np.abs(back[8:12, 12:18] - PHOTO[8:12, 12:18]).mean() < 12
    assert (_applied("rotate", 1.0)[0, 0] == GREY).all()


def test_images_keep_their_shape_and_noise_comes_from_the_generator() -> None:
    augment = RandAugment(2, 9)
    for pixels in (PHOTO, PHOTO[:, :, :1]):
        first = [augment(pixels, np.random.default_rng(seed)) for seed in range(20)]
        again = [augment(pixels, np.random.default_rng(seed)) for seed in range(20)]
        np.testing.assert_array_equal(first, again)
        assert {image.shape for image in first} == {pixels.shape}
        assert len({image.tobytes() for image in first}) > 10
    assert repr(augment) == "RandAugment(num_ops=2, magnitude=9)"


def test_all_operations_are_drawn() -> None:
    drawn = {
        RandAugment(1, 10)(PHOTO, np.random.default_rng(seed)).tobytes() for seed in range(300)
    }
    possible = {
        _applied(name, strength).astype(np.uint8).tobytes()
        for name in OPERATIONS
        for strength in (-1.0, 1.0)
    }
    assert drawn == possible


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "num_ops is 0: it must be an integer of at least 1"),
        ((2, 11), "magnitude is 11: it must be at least 0 and at most 10"),
    ],
)
def test_bad_settings_are_errors(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RandAugment(*arguments)
