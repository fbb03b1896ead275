"""Images and volumes of shapes in noise, drawn with their masks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.splits import SPLITS, check_split
from mtfrun.errors.checks import COUNT, INDEX, NOT_NEGATIVE, check_fields, check_items
from mtfrun.extras.vision.segmentation.segmentation_data import SegmentationSource, SegmentedImage

# By the number of spatial dimensions.
_NAMES = {2: ("disc", "rectangle", "triangle"), 3: ("ball", "box", "tetrahedron")}
# The corners of a regular simplex, at distance 1 of its centre.
_CORNERS = {
    2: np.array([[1, 0], [-1 / 2, np.sqrt(3) / 2], [-1 / 2, -np.sqrt(3) / 2]]),
    3: np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3),
}
# Radii of shapes, by the shortest side of an image.
_RADII = (0.15, 0.3)
# The least difference of brightness between a shape and the background, of 255.
_CONTRAST = 40


@dataclasses.dataclass(frozen=True)
class DrawnShapes(SegmentationSource):
    """Discs, rectangles and triangles in noise; balls, boxes and tetrahedra in volumes.

    Every image is a function of the settings, its split and its number. Shapes of random brightness
    lie inside of the image; one that would overlap another is left out.

    Attributes:
      sizes: rows and cols, or depth, rows and cols.
      num_train: number of images of "train".
      num_evaluated: number of images of "validation", and of "test".
      max_shapes: maximum number of tries to draw a shape in an image.
      noise: standard deviation of the noise of every pixel, of 255.
    """

    sizes: Sequence[int] = (64, 64)
    num_train: int = 20_000
    num_evaluated: int = 500
    max_shapes: int = 4
    noise: float = 25.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "num_train", "num_evaluated", "max_shapes")
        check_fields(self, NOT_NEGATIVE, "noise")
        check_fields(self, INDEX, "seed")
        check_items(self, COUNT, "sizes")
        if len(self.sizes) not in _NAMES:
            raise DataError(f"DrawnShapes.sizes={list(self.sizes)} must be [depth,] rows and cols")

    @property
    def size(self) -> tuple[int, ...]:
        return (*self.sizes, 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("background", *_NAMES[len(self.sizes)])

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def count(self, split: str) -> int:
        check_split(str(self), split, self.splits)
        return self.num_train if split == "train" else self.num_evaluated

    def example(self, split: str, number: int) -> SegmentedImage:
        key = [self.seed, self.splits.index(split)]
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, number]))
        background = generator.uniform(0.0, 255.0)
        brightness = np.full(self.sizes, background)
        mask = np.zeros(self.sizes, np.uint8)
        for _ in range(generator.integers(1, self.max_shapes + 1)):
            label = int(generator.integers(1, len(self.class_names)))
            inside = _draw(label, self.sizes, generator)
            level = generator.uniform(0.0, 255.0 - 2 * _CONTRAST)
            if level > background - _CONTRAST:
                level += 2 * _CONTRAST
            if not mask[inside].any():
                mask[inside] = label
                brightness[inside] = level
        noisy = brightness + self.noise * generator.standard_normal(self.sizes)
        return SegmentedImage(np.clip(noisy, 0, 255).astype(np.uint8)[..., np.newaxis], mask)

    def fingerprint(self, split: str) -> object:
        settings = {**dataclasses.asdict(self), "sizes": list(self.sizes)}
        return {"source": type(self).__name__, "split": split, **settings}


def _draw(label: int, sizes: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    num_dims = len(sizes)
    radius = min(sizes) * generator.uniform(*_RADII)
    centre = [generator.uniform(radius, size - radius) for size in sizes]
    # From the centre to the middle of every pixel, along each dimension.
    grid = np.ogrid[tuple(slice(size) for size in sizes)]
    places = [x + 0.5 - c for x, c in zip(grid, centre, strict=True)]
    if label == 1:
        return np.asarray(sum(np.square(x) for x in places) <= radius**2)
    if label == 2:
        sides = radius * generator.uniform(0.5, 0.9, num_dims)
        within = [np.abs(x) <= side for x, side in zip(places, sides, strict=True)]
        return functools.reduce(np.logical_and, within)
    rotation, _ = np.linalg.qr(generator.standard_normal((num_dims, num_dims)))
    # The side opposite of a corner is at distance radius / num_dims of the centre.
    within = [
        sum(x * c for x, c in zip(places, corner, strict=True)) >= -radius / num_dims
        for corner in _CORNERS[num_dims] @ rotation
    ]
    return functools.reduce(np.logical_and, within)
