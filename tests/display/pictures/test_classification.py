"""Pictures of confusion matrices and predictions, whose layout needs a look as well."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.display.pictures import LabelledImage, confusion_matrix, image_grid
from mtfrun.display.pictures.canvas import HEIGHT, RIGHT, WIDTH, WRONG, plain, shorten


def _share(image: np.ndarray, colour: str) -> float:
    """Returns the share of the pixels that have a colour "#rrggbb"."""
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((np.abs(image.astype(int) - channels).max(axis=2) <= 1).mean())


def test_a_confusion_matrix_is_blue_on_the_diagonal_and_orange_elsewhere() -> None:
    right = confusion_matrix(np.array([[4.0, 0.0], [0.0, 3.0]]), ["cat", "a frog"])
    assert _share(right, RIGHT) > 0.03 and _share(right, WRONG) == 0
    wrong = confusion_matrix(np.array([[0.0, 4.0], [3.0, 0.0]]), ["cat", "a frog"])
    assert _share(wrong, WRONG) > 0.03 and _share(wrong, RIGHT) == 0
    # A quarter of the row has half the strength of orange: white and orange mixed.
    rare = confusion_matrix(np.array([[3.0, 1.0], [0.0, 4.0]]), ["cat", "a frog"])
    assert _share(rare, "#EAAE80") > 0.01


@pytest.mark.parametrize("classes", [1, 2, 60, pytest.param(700, marks=pytest.mark.slow)])
def test_the_image_of_any_number_of_classes_has_a_moderate_size(classes: int) -> None:
    counts = np.eye(classes) * 12_345
    image = confusion_matrix(counts, [f"class $ {i} 猫" for i in range(classes)])
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert max(image.shape) < 900
    assert _share(image, WRONG) == 0


def test_ten_classes_and_twelve_images_fit_a_card_of_time_series() -> None:
    names = [f"a long name {i}" for i in range(10)]
    matrix = confusion_matrix(np.eye(10) * 500, names)
    grid = image_grid([LabelledImage(np.zeros([8, 8, 1], np.uint8), "1", "1", 0.9)] * 12)
    for image in (matrix, grid):
        assert image.shape[1] == WIDTH and image.shape[0] <= HEIGHT


def test_the_frame_of_an_image_says_whether_its_prediction_is_right() -> None:
    black = np.zeros([8, 8, 1], np.uint8)
    right, wrong = LabelledImage(black, "1", "1", 0.9), LabelledImage(black, "7", "1", 0.6)
    assert _share(image_grid([right]), RIGHT) > 0 == _share(image_grid([right]), WRONG)
    assert _share(image_grid([wrong]), WRONG) > 0 == _share(image_grid([wrong]), RIGHT)


@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (32, 20, 3), pytest.param((224, 300, 3), marks=pytest.mark.slow)]
)
def test_a_grid_contains_the_pixels_of_all_images(shape: tuple[int, int, int]) -> None:
    colours = [(25 * i, 255 - 20 * i, 128) for i in range(10)]
    images = [
        LabelledImage(np.full(shape, colour[: shape[2]], np.uint8), "a", "b", 0.5)
        for colour in colours
    ]
    grid = image_grid(images)
    for colour in colours:
        shown = colour if shape[2] == 3 else (colour[0],) * 3
        assert (grid == shown).all(axis=2).sum() > 1000, shown


def test_long_names_are_shorten() -> None:
    assert shorten("cat", 10) == "cat"
    assert shorten("a name\nthat has no end", 10) == "a name th…"


def test_no_text_is_taken_for_a_formula_or_warns_of_a_missing_letter() -> None:
    assert plain("$x$ 猫 é") == r"\$x\$ □ é"
