"""Pictures of experts, attention and meshes; how they look was judged by eye."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mtfrun.display import pictures
from mtfrun.display.formats import mark_blanks
from mtfrun.display.pictures.canvas import HEIGHT, PALETTE, WIDTH
from mtfrun.extras.monitoring.layer_pictures import attention_maps

TOKENS = [mark_blanks(c) for c in "def f(x):\n\treturn $猫"]


def _pixels_of(image: np.ndarray, colour: str) -> int:
    """Returns the number of the pixels that have a colour "#rrggbb"."""
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


def test_tokens_have_the_colours_of_their_experts_only() -> None:
    experts = np.full([len(TOKENS)], 3)
    image = pictures.token_experts(TOKENS, {"layer 0": experts}, 4)
    shares = {colour: _pixels_of(image, colour) for colour in PALETTE}
    legend = shares[PALETTE[0]]
    assert 100 < legend == pytest.approx(shares[PALETTE[1]], rel=0.1)
    assert shares[PALETTE[3]] > 10 * legend and shares[PALETTE[4]] == 0


@pytest.mark.parametrize(
    "num_experts", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 64)), 8]
)
def test_long_texts_need_more_lines(num_experts: int) -> None:
    experts = {f"layer {i}": np.arange(-1, len(TOKENS) - 1) % num_experts for i in range(2)}
    short = pictures.token_experts(TOKENS, experts, num_experts)
    four = {name: np.tile(x, 4) for name, x in experts.items()}
    long = pictures.token_experts(TOKENS * 4, four, num_experts)
    assert long.shape[1] == short.shape[1] == WIDTH and long.shape[0] > short.shape[0] + 100
    if num_experts <= len(PALETTE):
        assert long.shape[0] <= HEIGHT + 40, "80 characters, two layers"


def test_attention_maps_have_a_map_for_every_head() -> None:
    weights = np.eye(len(TOKENS))
    one = attention_maps({"head 0": weights}, TOKENS, TOKENS)
    two, three = (
        attention_maps({f"head {i}": weights for i in range(n)}, TOKENS, TOKENS) for n in (2, 3)
    )
    assert two.shape == one.shape == (HEIGHT, WIDTH, 3), "side by side"
    assert (two[:, WIDTH // 2 :] != one[:, WIDTH // 2 :]).any()
    assert three.shape[0] > 1.5 * HEIGHT and three.shape[1] == WIDTH, "the third one is below"
    flat = attention_maps({"head 0": weights * 0}, TOKENS, TOKENS)
    assert (one != flat).any(axis=2).sum() > len(TOKENS) * 50, "the diagonal is lit"


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


@pytest.mark.slow
def test_matplotlib_is_imported_by_the_first_picture_only() -> None:
    program = (
        "import sys; from mtfrun.display import pictures; assert 'matplotlib' not in sys.modules;"
        "pictures.confusion_matrix(__import__('numpy').eye(2), 'ab');"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
