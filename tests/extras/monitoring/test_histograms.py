"""Histograms of weights and gradients."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mtfrun import mtf
from mtfrun.extras.monitoring.histograms import Distribution, Histograms, distributions
from mtfrun.training import TrainOptions
from tests.layouts import FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close, meshes
from tests.training.toy_run import curve, toy_train


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, *meshes()])
def test_distributions_are_those_of_numpy_under_every_layout(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;d_ff:model")
    values = np.random.default_rng(0).normal(size=[8, 1000]).astype(np.float32)
    shape = mtf.Shape([mtf.Dimension("batch", 8), mtf.Dimension("d_ff", 1000)])
    x = mtf.import_tf_tensor(mesh, values, shape)
    ones = mtf.ones(mesh, shape)
    results = mtf.to_numpy(mtf.function(lambda x, y: distributions([x, y]))(x, ones))
    counts, edges = np.histogram(values, bins=30)
    buckets = results[0].buckets()
    assert_close(buckets[:, 0], edges[:-1], FLOAT32_OP_TOLERANCE)
    assert_close(buckets[:, 1], edges[1:], FLOAT32_OP_TOLERANCE)
    # An edge may be rounded to the other side of an entry.
    assert np.abs(buckets[:, 2] - counts).max() <= 1 and buckets[:, 2].sum() == 8000
    np.testing.assert_array_equal(results[1].buckets(), [[0.5, 1.5, 8000]])


def test_buckets_of_counts() -> None:
    buckets = Distribution(0.0, 2.0, np.array([3.0, 7.0])).buckets()
    np.testing.assert_array_equal(buckets, [[0, 1, 3], [1, 2, 4]])


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
