"""Pictures of experts, meshes and predictions; how they look was judged by eye."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mtfrun.display import pictures
from mtfrun.display.pictures.canvas import HEIGHT, RIGHT, WIDTH, WRONG, plain, shorten


def pixels_of(image: np.ndarray, colour: str) -> int:
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image.astype(int) - channels).max(axis=2) <= 1).sum())


@pytest.mark.parametrize(
    ("layers", "experts"), [(1, 2), (6, 8), (3, 128), pytest.param(24, 64, marks=pytest.mark.slow)]
)
def test_loads_of_any_number_of_experts_fit_the_width_of_a_card(layers: int, experts: int) -> None:
    loads = np.random.default_rng(0).gamma(3, 1 / 3, [layers, experts])
    image = pictures.expert_loads(loads, [f"decoder layer {i}" for i in range(layers)])
    assert image.shape[1] == WIDTH
    assert image.shape[0] <= HEIGHT if layers < 10 else image.shape[0] < 2 * HEIGHT


def test_idle_equal_and_busy_experts_differ_in_colour() -> None:
    def colours_of(load: float) -> set[tuple[int, ...]]:
        image = pictures.expert_loads(np.full([1, 1], load), ["layer 0"])
        colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        return {tuple(c) for c in colours[np.argsort(counts)[-3:]].tolist()}

    idle, equal, busy = (colours_of(load) for load in (0.0, 1.0, 2.0))
    assert idle - equal - busy and equal - idle - busy and busy - idle - equal
    assert colours_of(2.0) == colours_of(9.0), "from 2 on there is one colour"


def test_a_mesh_has_its_devices_its_axes_and_what_they_split() -> None:
    svg = pictures.mesh_devices(
        {"data": 16, "model": 2},
        {"batch": "data", "heads": "model", "vocab": "model"},
        title="a <mesh>",
    ).svg()
    assert svg.count('id="device_') == 8 * 2
    for text in (
        "→ model (2): splits heads, vocab",
        "↓ data (16): splits batch",
        "and 16 more devices",
        "a &lt;mesh&gt;",
    ):
        assert f">{text}</text>" in svg, text
    one = pictures.mesh_devices({"all": 1}, {}, title="one").svg()
    assert one.count('id="device_') == 1 and "splits nothing" in one


def test_a_confusion_matrix_is_blue_on_the_diagonal_and_orange_elsewhere() -> None:
    right = pictures.confusion_matrix(np.array([[4.0, 0.0], [0.0, 3.0]]), ["cat", "a frog"])
    assert pixels_of(right, RIGHT) > 0.03 * right[..., 0].size and not pixels_of(right, WRONG)
    wrong = pictures.confusion_matrix(np.array([[0.0, 4.0], [3.0, 0.0]]), ["cat", "a frog"])
    assert pixels_of(wrong, WRONG) > 0.03 * wrong[..., 0].size and not pixels_of(wrong, RIGHT)
    # A quarter of the row has half the strength of orange: white and orange mixed.
    rare = pictures.confusion_matrix(np.array([[3.0, 1.0], [0.0, 4.0]]), ["cat", "a frog"])
    assert pixels_of(rare, "#EAAE80") > 0.01 * rare[..., 0].size


@pytest.mark.parametrize("classes", [1, 2, 60, pytest.param(700, marks=pytest.mark.slow)])
def test_the_image_of_any_number_of_classes_has_a_moderate_size(classes: int) -> None:
    counts = np.eye(classes) * 12_345
    image = pictures.confusion_matrix(counts, [f"class $ {i} 猫" for i in range(classes)])
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert max(image.shape) < 900
    assert pixels_of(image, WRONG) == 0


def test_ten_classes_and_twelve_images_fit_a_card_of_time_series() -> None:
    names = [f"a long name {i}" for i in range(10)]
    matrix = pictures.confusion_matrix(np.eye(10) * 500, names)
    grid = pictures.image_grid(
        [pictures.LabelledImage(np.zeros([8, 8, 1], np.uint8), "1", "1", 0.9)] * 12
    )
    for image in (matrix, grid):
        assert image.shape[1] == WIDTH and image.shape[0] <= HEIGHT


def test_the_frame_of_an_image_says_whether_its_prediction_is_right() -> None:
    black = np.zeros([8, 8, 1], np.uint8)
    right, wrong = (
        pictures.LabelledImage(black, "1", "1", 0.9),
        pictures.LabelledImage(black, "7", "1", 0.6),
    )
    assert (
        pixels_of(pictures.image_grid([right]), RIGHT)
        > 0
        == pixels_of(pictures.image_grid([right]), WRONG)
    )
    assert (
        pixels_of(pictures.image_grid([wrong]), WRONG)
        > 0
        == pixels_of(pictures.image_grid([wrong]), RIGHT)
    )


@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (32, 20, 3), pytest.param((224, 300, 3), marks=pytest.mark.slow)]
)
def test_a_grid_contains_the_pixels_of_all_images(shape: tuple[int, int, int]) -> None:
    colours = [(25 * i, 255 - 20 * i, 128) for i in range(10)]
    images = [
        pictures.LabelledImage(np.full(shape, colour[: shape[2]], np.uint8), "a", "b", 0.5)
        for colour in colours
    ]
    grid = pictures.image_grid(images)
    for colour in colours:
        shown = colour if shape[2] == 3 else (colour[0],) * 3
        assert (grid == shown).all(axis=2).sum() > 1000, shown


def test_long_names_are_shortened_and_no_text_is_a_formula_or_lacks_a_letter() -> None:
    assert shorten("cat", 10) == "cat"
    assert shorten("a name\nthat has no end", 10) == "a name th…"
    assert plain("$x$ 猫 é") == r"\$x\$ □ é"


@pytest.mark.slow
def test_matplotlib_is_imported_by_the_first_picture_only() -> None:
    program = (
        "import sys; from mtfrun.display import pictures; assert 'matplotlib' not in sys.modules;"
        "pictures.confusion_matrix(__import__('numpy').eye(2), 'ab');"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
