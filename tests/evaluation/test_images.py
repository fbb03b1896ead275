"""Images of confusion matrices and predictions, whose layout needs a look as well."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mtfrun.evaluation import LabelledImage, confusion_matrix_image, image_grid
from mtfrun.evaluation.image_text import font, shortened

GREEN, RED = (28, 128, 60), (196, 40, 36)


def _colours(image: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in image.reshape(-1, 3).tolist()}


def _cells(image: np.ndarray, classes: int, cell: int) -> np.ndarray:
    """Returns the colour of each cell of a confusion matrix, near its upper left corner."""
    height, width, _ = image.shape
    top, left = height - 9 - classes * cell, width - 9 - classes * cell
    places = np.arange(classes) * cell + 3
    return image[np.ix_(top + places, left + places)]


def test_a_confusion_matrix_is_green_on_the_diagonal_and_red_elsewhere() -> None:
    counts = np.array([[4.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    image = confusion_matrix_image(counts, ["cat", "dog", "a frog"])
    cells = _cells(image, 3, 48)
    assert tuple(cells[0, 0]) == GREEN
    # A quarter of the row: half the strength of red.
    np.testing.assert_allclose(cells[1, 0], (255 + np.array(RED)) / 2, atol=1)
    assert cells[1, 1][1] > cells[1, 1][0]
    for row, col in ((0, 1), (0, 2), (1, 2), (2, 0), (2, 1), (2, 2)):
        assert tuple(cells[row, col]) == (255, 255, 255), (row, col)


@pytest.mark.parametrize("classes", [2, 60, 700])
def test_the_image_of_any_number_of_classes_has_a_moderate_size(classes: int) -> None:
    image = confusion_matrix_image(np.eye(classes) * 12_345, [f"class {i}" for i in range(classes)])
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert max(image.shape) < 900
    assert GREEN in _colours(image) and RED not in _colours(image)


def test_the_frame_of_an_image_says_whether_its_prediction_is_correct() -> None:
    black = np.zeros([8, 8, 1], np.uint8)
    correct, incorrect = LabelledImage(black, "1", "1", 0.9), LabelledImage(black, "7", "1", 0.6)
    assert GREEN in _colours(image_grid([correct]))
    assert RED not in _colours(image_grid([correct]))
    assert RED in _colours(image_grid([incorrect]))
    assert GREEN not in _colours(image_grid([incorrect]))


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 20, 3), (224, 300, 3)])
def test_a_grid_contains_the_pixels_of_all_images(shape: tuple[int, int, int]) -> None:
    colours = [(25 * i, 255 - 20 * i, 128) for i in range(10)]
    images = [
        LabelledImage(np.full(shape, colour[: shape[2]], np.uint8), "a", "b", 0.5)
        for colour in colours
    ]
    grid = image_grid(images)
    shown = [colour if shape[2] == 3 else (colour[0],) * 3 for colour in colours]
    assert set(shown) <= _colours(grid)
    coordinates = np.nonzero((grid == shown[3]).all(axis=2))
    sides = [np.ptp(values) + 1 for values in coordinates]
    assert 70 <= max(sides) <= 96 and np.argmax(sides) == np.argmax(shape[:2])


def test_long_names_are_shortened() -> None:
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    assert shortened(draw, "cat", 100, font(12)) == "cat"
    name = shortened(draw, "a name\nthat has no end", 80, font(12))
    assert name.startswith("a name th") and name.endswith("...")
    assert draw.textlength(name, font(12)) <= 80
