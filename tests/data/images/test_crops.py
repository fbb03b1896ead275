"""Crops: windows of images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mtfrun.data import CentreCrop, DataError, RandomResizedCrop
from mtfrun.data.images.crops import WholeImage, Window
from mtfrun.data.images.image_files import EncodedImage, PixelImage
from tests.data.images.photos import jpeg, photo

SIZE = (60, 90)
DECODER_TOLERANCE = 4  # of 255, between decoders of JPEG


def test_random_windows_have_the_area_and_aspect_that_are_set() -> None:
    crop = RandomResizedCrop((0.2, 0.6), (0.5, 2.0))
    generator = np.random.default_rng(0)
    windows = [crop(SIZE, generator) for _ in range(500)]
    areas = np.array([w.rows * w.cols / (SIZE[0] * SIZE[1]) for w in windows])
    aspects = np.array([w.cols / w.rows for w in windows])
    # Sides are rounded to pixels.
    assert areas.min() > 0.19 and areas.max() < 0.62
    assert aspects.min() > 0.48 and aspects.max() < 2.08
    # Uniform, and log-uniform, except for windows that do not fit.
    assert areas.mean() == pytest.approx(0.4, abs=0.03)
    assert np.log(aspects).mean() == pytest.approx(0.0, abs=0.1)
    assert {w.top == 0 for w in windows} == {w.left == 0 for w in windows} == {True, False}
    for w in windows:
        assert 0 <= w.top <= SIZE[0] - w.rows and 0 <= w.left <= SIZE[1] - w.cols


def test_an_image_that_no_window_fits_has_the_largest_one_in_its_centre() -> None:
    window = RandomResizedCrop((0.9, 1.0), (3 / 4, 4 / 3))((10, 100), np.random.default_rng(0))
    assert window == Window(0, 43, 10, 13)
    assert RandomResizedCrop()((1, 1), np.random.default_rng(0)) == Window(0, 0, 1, 1)


def test_the_centre_is_that_of_the_scaled_image() -> None:
    # 60 rows scaled to 256 and cropped to 224 are 52.5 of 60.
    assert CentreCrop(224, 256)(SIZE, np.random.default_rng(0)) == Window(4, 19, 52, 52)
    assert CentreCrop(8, 8)((8, 8), np.random.default_rng(0)) == Window(0, 0, 8, 8)
    assert WholeImage()(SIZE, np.random.default_rng(0)) == Window(0, 0, *SIZE)


@pytest.mark.parametrize(
    "arguments", [((0.0, 1.0),), ((0.5, 1.5),), ((0.6, 0.5),), ((0.1, 1.0), (2.0, 1.0))]
)
def test_bad_limits_are_errors(arguments: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(DataError, match="must be two ascending numbers above 0"):
        RandomResizedCrop(*arguments)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("window", "size"),
    [
        (Window(0, 0, 90, 120), (90, 120)),
        (Window(7, 11, 40, 33), (16, 16)),
        (Window(13, 5, 70, 100), (32, 32)),  # decoded at half the size
        (Window(3, 9, 81, 88), (9, 9)),  # at an eighth
        (Window(50, 60, 5, 7), (20, 20)),  # enlarged
    ],
)
def test_a_decoded_window_is_that_of_the_whole_image(
    window: Window, size: tuple[int, int], channels: int
) -> None:
    content = jpeg(photo(90, 120))
    image = EncodedImage(content, (90, 120), channels)
    with Image.open(io.BytesIO(content)) as whole:
        pixels = np.asarray(whole.convert("L" if channels == 1 else "RGB"))
    expected = PixelImage(pixels.reshape(90, 120, channels)).crop(window, size)
    cropped = image.crop(window, size)
    assert cropped.shape == (*size, channels) and cropped.dtype == np.uint8
    difference = np.abs(cropped.astype(int) - expected)
    # The scaled decoder averages squares of pixels; those at the border reach out of the window.
    assert difference.mean() <= DECODER_TOLERANCE
    if size == (90, 120):
        assert difference.max() <= DECODER_TOLERANCE
