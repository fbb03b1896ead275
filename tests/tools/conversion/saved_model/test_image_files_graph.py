"""Files of images are read in a SavedModel pixel for pixel as mtfrun reads them."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mtfrun import data
from mtfrun.data.images.image_source import ImageExample, ImageSize, ImageSource
from mtfrun.tools.conversion.saved_model.image_files_graph import read_image


class _NoExamples(ImageSource):
    """A source that only says what images are."""

    def __init__(self, size: ImageSize) -> None:
        self._size = size

    @property
    def size(self) -> ImageSize:
        return self._size

    @property
    def label_names(self) -> tuple[str, ...]:
        return ("a", "b")

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def examples(self, split: str) -> Iterator[ImageExample]:
        return iter(())

    def fingerprint(self, split: str) -> object:
        return split


def _files() -> Iterator[bytes]:
    """Yields PNG and JPEG files: grey, in colour, transparent, with a palette, of 16 bits."""
    generator = np.random.default_rng(0)
    for rows, cols in ((8, 8), (40, 33), (90, 121)):
        colour = Image.fromarray(generator.integers(0, 256, (rows, cols, 4), np.uint8))
        for mode, kind in (("L", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")):
            yield _saved(colour.convert(mode), kind)
        yield _saved(colour.convert("RGB").quantize(16), "PNG")
        yield _saved(
            Image.fromarray(generator.integers(0, 1 << 16, (rows, cols), np.uint16)), "PNG"
        )
        yield _saved(colour.convert("RGB"), "JPEG")
        yield _saved(colour.convert("L"), "JPEG")


def _saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"image_size": 24}])
def test_pixels_are_those_of_decode(
    tmp_path: pathlib.Path, channels: int, settings: dict[str, Any]
) -> None:
    size = (None, None, channels) if settings else (20, 28, channels)
    images = data.ImageData(_NoExamples(size), **settings)
    read = tf.function(
        lambda content: read_image(images, content),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    path = tmp_path / "image"
    for content in _files():
        path.write_bytes(content)
        np.testing.assert_array_equal(read(content).numpy(), images.read_image(str(path)))
