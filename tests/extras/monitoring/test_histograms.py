"""Histograms of weights and gradients."""

from __future__ import annotations

import pathlib

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mtfrun.extras.monitoring.histograms import Histograms, buckets
from mtfrun.training import TrainOptions
from tests.training.toy_run import curve, toy_train


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
