"""Reading image files."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from mtfrun.data import DataError, read_image
from mtfrun.data.images.crops import Window
from mtfrun.data.images.image_files import encode_image

GREY, COLOUR = (5, 4, 1), (5, 4, 3)
JPEG_TOLERANCE = 3  # of 255


def _saved(path: pathlib.Path, pixels: np.ndarray, exif: Image.Exif | None = None) -> str:
    options = {} if exif is None else {"exif": exif}
    Image.fromarray(pixels).save(path, None, **options)
    return str(path)


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_a_png_of_the_right_size_gives_its_pixels(
    shape: tuple[int, int, int], tmp_path: pathlib.Path
) -> None:
    pixels = _pixels(*shape)
    path = _saved(tmp_path / "a.png", pixels.squeeze())
    np.testing.assert_array_equal(read_image(path, shape), pixels)


def test_a_jpeg_gives_approximately_its_pixels(tmp_path: pathlib.Path) -> None:
    pixels = np.full([16, 16, 3], [200, 100, 50], np.uint8)
    image = read_image(_saved(tmp_path / "a.jpeg", pixels), (16, 16, 3))
    assert np.abs(image.astype(int) - pixels).max() <= 3


def test_colours_are_converted_to_grey_and_grey_to_colour(tmp_path: pathlib.Path) -> None:
    pixels = np.tile(np.array([10, 200, 90], np.uint8), [5, 4, 1])
    luma = round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)
    image = read_image(_saved(tmp_path / "a.png", pixels), GREY)
    assert set(image.ravel()) == {luma}
    grey = _pixels(5, 4)
    image = read_image(_saved(tmp_path / "b.png", grey), COLOUR)
    np.testing.assert_array_equal(image, np.repeat(grey[:, :, np.newaxis], 3, 2))


def test_other_sizes_are_scaled_and_cropped_to_their_centre(tmp_path: pathlib.Path) -> None:
    # Three squares side by side: 8x24 is cropped to the one in the centre.
    wide = np.repeat(np.array([[0, 100, 200]], np.uint8), 8, 1).repeat(8, 0)
    assert wide.shape == (8, 24)
    image = read_image(_saved(tmp_path / "a.png", wide), (8, 8, 1))
    assert set(image.ravel()) == {100}
    # Half the size: the left and the right half keep their brightness away from the edge.
    halves = np.repeat(np.array([[0, 250]], np.uint8), 16, 1).repeat(32, 0)
    image = read_image(_saved(tmp_path / "b.png", halves), (16, 16, 1))[:, :, 0]
    assert image[:, :6].max() <= 5 and image[:, 10:].min() >= 245


def test_transparent_pixels_become_white(tmp_path: pathlib.Path) -> None:
    pixels = np.zeros([5, 4, 4], np.uint8)
    pixels[0, :, 3] = 255
    image = read_image(_saved(tmp_path / "a.png", pixels), GREY)
    assert set(image[0].ravel()) == {0} and set(image[1:].ravel()) == {255}


def test_16_bits_are_reduced_to_the_upper_8(tmp_path: pathlib.Path) -> None:
    pixels = _pixels(5, 4)
    image = read_image(_saved(tmp_path / "a.png", pixels.astype(np.uint16) * 257), GREY)
    np.testing.assert_array_equal(image[:, :, 0], pixels)


def test_an_image_is_rotated_by_its_exif_orientation(tmp_path: pathlib.Path) -> None:
    pixels = _pixels(4, 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    path = _saved(tmp_path / "a.png", pixels, exif=exif)
    np.testing.assert_array_equal(read_image(path, GREY)[:, :, 0], np.rot90(pixels, -1))


def test_a_plain_jpeg_is_stored_as_it_is_and_others_as_a_png_of_their_pixels(
    tmp_path: pathlib.Path,
) -> None:
    rotated = Image.Exif()
    rotated[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    transparent = _pixels(9, 7, 4)
    for name, pixels, exif, is_kept in (
        ("plain.jpeg", _pixels(9, 7, 3), None, True),
        ("grey.jpeg", _pixels(9, 7), None, True),
        ("rotated.jpeg", _pixels(9, 7, 3), rotated, False),
        ("plain.png", _pixels(9, 7, 3), None, False),
        ("transparent.png", transparent, None, False),
        ("deep.png", _pixels(9, 7).astype(np.uint16) * 257, None, False),
    ):
        path = _saved(tmp_path / name, pixels, exif)
        content = pathlib.Path(path).read_bytes()
        rows, cols = (7, 9) if exif else (9, 7)
        for channels in (1, 3):
            image = encode_image(content, channels, path)
            assert image.size == (rows, cols)
            assert (image.content == content) == is_kept
            whole = image.crop(Window(0, 0, rows, cols), (rows, cols))
            expected = read_image(path, (rows, cols, channels))
            if is_kept:  # two decoders, whose rounding differs
                assert np.abs(whole.astype(int) - expected).max() <= JPEG_TOLERANCE
            else:
                np.testing.assert_array_equal(whole, expected)


def test_a_file_that_is_no_image_is_an_error_of_one_line(tmp_path: pathlib.Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    bitmap = tmp_path / "bitmap.png"
    Image.fromarray(_pixels(5, 4)).save(bitmap, format="BMP")
    for path, message in (
        (tmp_path / "none.png", "no image .*none.png: check its name"),
        (text, "cannot read the image .*text.png: broken, or not a PNG or JPEG"),
        (bitmap, "cannot read the image .*bitmap.png: broken, or not a PNG or JPEG"),
        (tmp_path, "cannot read the image .*: Is a directory"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read_image(str(path), GREY)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="images of 2 channels"):
        read_image(str(text), (5, 4, 2))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_no_damage_escapes_as_another_error(kind: str, tmp_path: pathlib.Path) -> None:
    valid = pathlib.Path(_saved(tmp_path / f"valid.{kind}", _pixels(40, 40, 3))).read_bytes()
    rng = np.random.default_rng(1)
    path, refused = tmp_path / f"damaged.{kind}", 0
    for i in range(400):
        damaged = bytearray(valid)
        if i % 2:
            del damaged[rng.integers(len(valid)) :]
        else:
            for position in rng.integers(0, len(valid), 1 + i // 20):
                damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(str(path), COLOUR)
        except DataError:
            refused += 1
    assert refused > 150


def test_a_jpeg_that_training_cannot_decode_is_broken(tmp_path: pathlib.Path) -> None:
    # A marker in the middle of the pixels, which Pillow overlooks.
    content = pathlib.Path(_saved(tmp_path / "a.jpg", _pixels(16, 16, 3))).read_bytes()
    broken = 0
    for position in range(len(content) - 120, len(content) - 2):
        damaged = content[:position] + b"\xff" + content[position + 1 :]
        try:
            image = encode_image(damaged, 3, "a.jpg")
        except DataError as error:
            assert str(error).startswith("cannot read the image a.jpg: broken")
            broken += 1
            continue
        assert image.crop(Window(0, 0, *image.size), image.size).shape == (*image.size, 3)
    assert 0 < broken < 118
