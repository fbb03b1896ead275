"""Files of images are read in a SavedModel as mtfrun reads them, within a tolerance."""

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
from mtfrun.extras.saved_model.image_signatures import read_image
from tests.data.images.photos import photo

# Of values from 0 to 255 (docs/extras/saved_model.md): the mean difference, and the share of pixels
# which differ by more than 1.
MEAN_TOLERANCE = 0.5
OUTLIERS = 0.01


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
        colour = Image.fromarray(photo(rows, cols, seed=rows))
        transparent = colour.copy()
        alpha = generator.integers(0, 256, (1, 1), np.uint8)
        transparent.putalpha(Image.fromarray(alpha).resize((cols, rows)))
        yield from (_saved(colour.convert(mode), "PNG") for mode in ("L", "RGB"))
        yield from (_saved(transparent.convert(mode), "PNG") for mode in ("RGBA", "LA"))
        yield _saved(colour.quantize(16), "PNG")
        yield _saved(
            Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 255), "PNG"
        )
        yield from (_saved(colour.convert(mode), "JPEG") for mode in ("L", "RGB"))


def _saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"image_size": 24}])
def test_pixels_are_nearly_those_of_decode(
    tmp_path: pathlib.Path, channels: int, settings: dict[str, Any]
) -> None:
    size = (None, None, channels) if settings else (20, 28, channels)
    images = data.ImageData(_NoExamples(size), **settings)
    read = tf.function(
        lambda content: read_image(images.image.to_integer_list, images.centre_crop, content),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    path = tmp_path / "image"
    for content in _files():
        path.write_bytes(content)
        expected = images.read_image(str(path)).astype(int)
        difference = np.abs(read(content).numpy() - expected)
        assert difference.mean() <= MEAN_TOLERANCE
        assert np.mean(difference > 1) <= OUTLIERS
