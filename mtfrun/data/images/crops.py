"""Windows of images: at random for training, the centre for evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mtfrun.data.errors import DataError

# Windows that are drawn before the centre is taken, as in Inception.
_ATTEMPTS = 10


class Window(NamedTuple):
    """A rectangle of an image, in pixels: its first row and column, and their numbers."""

    top: int
    left: int
    rows: int
    cols: int


Crop = Callable[[tuple[int, int], np.random.Generator], Window]
"""Draws the window, of an image of some rows and columns, that is scaled to the network's input."""


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A window of random area, aspect ratio (with uniform logarithm) and place.

    Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, section 6.

    Attributes:
      area: the smallest and the largest share of the image's area.
      aspect: the smallest and the largest ratio of width to height.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, highest in (("area", 1.0), ("aspect", math.inf)):
            low, high = values = getattr(self, name)
            if not 0.0 < low <= high <= highest:
                rule = f"must be two ascending numbers above 0, at most {highest:g}"
                raise DataError(f"RandomResizedCrop: {name}={values} {rule}")

    def __call__(self, size: tuple[int, int], generator: np.random.Generator) -> Window:
        """Returns a window, or the largest in the centre if ten did not fit into the image."""
        rows, cols = size
        log_aspect = np.log(self.aspect)
        for _ in range(_ATTEMPTS):
            area = rows * cols * generator.uniform(*self.area)
            aspect = math.exp(generator.uniform(*log_aspect))
            height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < height <= rows and 0 < width <= cols:
                top = int(generator.integers(rows - height + 1))
                left = int(generator.integers(cols - width + 1))
                return Window(top, left, height, width)
        least, most = self.aspect
        height = min(rows, max(1, round(cols / least)))
        width = min(cols, max(1, round(rows * most)))
        return _centre(size, height, width)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """The square that a crop of `size` leaves of an image with a shorter side of `resize`."""

    size: int
    resize: int

    def __call__(self, size: tuple[int, int], generator: np.random.Generator) -> Window:
        side = max(1, round(min(size) * self.size / self.resize))
        return _centre(size, side, side)


@dataclasses.dataclass(frozen=True)
class WholeImage:
    """The whole image."""

    def __call__(self, size: tuple[int, int], generator: np.random.Generator) -> Window:
        return Window(0, 0, *size)


def _centre(size: tuple[int, int], height: int, width: int) -> Window:
    return Window((size[0] - height) // 2, (size[1] - width) // 2, height, width)
