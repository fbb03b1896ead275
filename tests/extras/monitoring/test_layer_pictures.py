"""Pictures of the experts of tokens, and maps of attention."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mtfrun.display.formats import mark_blanks
from mtfrun.display.pictures.canvas import HEIGHT, PALETTE, WIDTH
from mtfrun.extras.monitoring.histograms import Histograms, buckets
from mtfrun.extras.monitoring.layer_pictures import attention_maps, token_experts
from mtfrun.training import TrainOptions
from tests.display.pictures.test_pictures import pixels_of
from tests.training.toy_run import curve, toy_train

TOKENS = [mark_blanks(c) for c in "def f(x):\n\treturn $猫"]


def test_tokens_have_the_colours_of_their_experts_only() -> None:
    experts = np.full([len(TOKENS)], 3)
    image = token_experts(TOKENS, {"layer 0": experts}, 4)
    shares = {colour: pixels_of(image, colour) for colour in PALETTE}
    legend = shares[PALETTE[0]]
    assert 100 < legend == pytest.approx(shares[PALETTE[1]], rel=0.1)
    assert shares[PALETTE[3]] > 10 * legend and shares[PALETTE[4]] == 0


@pytest.mark.parametrize(
    "num_experts", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 64)), 8]
)
def test_long_texts_need_more_lines(num_experts: int) -> None:
    experts = {f"layer {i}": np.arange(-1, len(TOKENS) - 1) % num_experts for i in range(2)}
    short = token_experts(TOKENS, experts, num_experts)
    four = {name: np.tile(x, 4) for name, x in experts.items()}
    long = token_experts(TOKENS * 4, four, num_experts)
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


def test_equal_entries_are_in_one_bucket() -> None:
    np.testing.assert_array_equal(buckets(np.ones([8, 1000])), [[0.5, 1.5, 8000]])
    assert buckets(np.arange(90.0))[:, 2].tolist() == [3.0] * 30


def test_histograms_are_written_every_so_many_steps_and_change_nothing(
    tmp_path: pathlib.Path,
) -> None:
    options = TrainOptions(7, log_every_steps=1)
    state, _ = toy_train(str(tmp_path / "with"), options, actions=[Histograms(every_steps=3)])
    toy_train(str(tmp_path / "without"), options)
    assert curve(str(tmp_path / "with")) == curve(str(tmp_path / "without"))
    events = EventAccumulator(str(tmp_path / "with/train"), size_guidance={"tensors": 0}).Reload()
    tags = {tag for tag in events.Tags()["tensors"] if tag.startswith(("weights", "gradients"))}
    assert tags == {
        f"{kind}/{path}" for kind in ("weights", "gradients") for path in state.trainable
    }
    points = events.Tensors("gradients/softmax")
    assert [point.step for point in points] == [3, 6]
    assert tensor_util.make_ndarray(points[-1].tensor_proto)[:, 2].sum() == 16 * 16
