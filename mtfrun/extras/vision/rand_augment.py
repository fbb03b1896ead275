"""RandAugment; Cubuk et al. 2019, https://arxiv.org/abs/1909.13719."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mtfrun.errors.checks import COUNT, Range, check_fields

# The magnitude at which an operation is strongest (section 3.1 there).
MAX_MAGNITUDE = 10
# Fills the pixels that geometric operations leave empty.
_GREY = 128
# The strongest operations, as in AutoAugment, table 6 of https://arxiv.org/abs/1805.09501.
_MAX_DEGREES = 30.0
_MAX_SHEAR = 0.3
_MAX_TRANSLATION = 150 / 331  # of the image's rows or columns
_MAX_ENHANCEMENT = 0.9  # factors of 0.1 to 1.9
_MAX_POSTERIZED_BITS = 4  # of 8, that are lost


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Applies operations that are drawn from 14, each with one magnitude for all.

    Operations with a direction (rotations, shears, translations, and less or more colour, contrast,
    brightness or sharpness) go either way. At every operation a larger magnitude changes more; in
    the authors' code it changes less where `Posterize` and `Solarize` are concerned.

    Attributes:
      num_ops: number of operations for an image, the paper's N.
      magnitude: strength of the operations, from 0 to 10, the paper's M.
    """

    num_ops: int = 2
    magnitude: float = 9

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "num_ops")
        check_fields(self, Range(0, MAX_MAGNITUDE), "magnitude")

    def __call__(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        is_grey = pixels.shape[-1] == 1
        image = Image.fromarray(pixels[:, :, 0] if is_grey else pixels)
        strength = self.magnitude / MAX_MAGNITUDE
        operations = list(OPERATIONS.values())
        for number in generator.integers(len(operations), size=self.num_ops):
            direction = 1 if generator.random() < 0.5 else -1
            image = operations[number](image, direction * strength)
        return np.asarray(image).reshape(pixels.shape)


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    """Returns the image whose pixel (x, y) is the old one at (a x + b y + c, d x + e y + f)."""
    affine, nearest = Image.Transform.AFFINE, Image.Resampling.NEAREST
    return image.transform(image.size, affine, coefficients, nearest, fillcolor=_grey(image))


def _grey(image: Image.Image) -> int | tuple[int, ...]:
    bands = len(image.getbands())
    return (_GREY,) * bands if bands > 1 else _GREY


def _enhance(enhancement: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, strength: enhancement(image).enhance(1 + strength * _MAX_ENHANCEMENT)


Operation = Callable[[Image.Image, float], Image.Image]
"""Changes an image with a strength from -1 to 1."""

# Section 3.1 of the paper.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, _: image,
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "rotate": lambda image, x: image.rotate(x * _MAX_DEGREES, fillcolor=_grey(image)),
    "solarize": lambda image, x: ImageOps.solarize(image, round(256 * (1 - abs(x)))),
    "color": _enhance(ImageEnhance.Color),
    "posterize": lambda image, x: ImageOps.posterize(
        image, 8 - round(abs(x) * _MAX_POSTERIZED_BITS)
    ),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, x: _affine(image, (1, x * _MAX_SHEAR, 0, 0, 1, 0)),
    "shear_y": lambda image, x: _affine(image, (1, 0, 0, x * _MAX_SHEAR, 1, 0)),
    "translate_x": lambda image, x: _affine(
        image, (1, 0, x * _MAX_TRANSLATION * image.width, 0, 1, 0)
    ),
    "translate_y": lambda image, x: _affine(
        image, (1, 0, 0, 0, 1, x * _MAX_TRANSLATION * image.height)
    ),
}
