"""Tests of mtfrun.training.loop: points, checkpoints, resumption, signals."""

from __future__ import annotations

import itertools
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.rundir import RunDirectory
from mtfrun.training import CheckpointOptions, TrainOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.training.toy_model import batches
from tests.training.toy_run import Evaluating, curve, parameters, quick_train, toy_train


def options(train_steps: int, **changes: Any) -> TrainOptions:
    """Returns short visits, a point at every step, and no checkpoints but the last."""
    settings: dict[str, Any] = {
        "iterations_per_loop": 3,
        "log_every_steps": 1,
        "checkpoints": CheckpointOptions(every_steps=None),
    }
    return TrainOptions(train_steps=train_steps, **{**settings, **changes})


class Runs(NamedTuple):
    """A run of 10 steps and its last values, and one of 4 steps, to be copied and resumed."""

    whole: pathlib.Path
    values: dict[str, np.ndarray]
    part: pathlib.Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    state, _ = toy_train(str(folder / "whole"), options(10))
    toy_train(str(folder / "part"), options(4))
    return Runs(folder / "whole", parameters(state), folder / "part")


def test_a_resumed_run_ends_with_the_same_bits(runs: Runs, tmp_path: pathlib.Path) -> None:
    shutil.copytree(runs.part, tmp_path / "resumed")
    state, result = toy_train(str(tmp_path / "resumed"), options(10))
    assert result.step == 10
    resumed = parameters(state)
    for path, value in runs.values.items():
        np.testing.assert_array_equal(resumed[path], value, err_msg=path)
    assert curve(str(tmp_path / "resumed")) == curve(str(runs.whole))


def test_a_run_is_resumed_on_another_mesh(runs: Runs, tmp_path: pathlib.Path) -> None:
    shutil.copytree(runs.part, tmp_path / "moved")
    state, _ = toy_train(str(tmp_path / "moved"), options(10), mesh_shape="data:2,model:2")
    for path, value in parameters(state).items():
        assert_close(value, runs.values[path], FLOAT32_MODEL_TOLERANCE)


def test_points_are_means_over_windows(tmp_path: pathlib.Path) -> None:
    quick_train(str(tmp_path / "single"), options(7))
    quick_train(str(tmp_path / "means"), options(7, log_every_steps=3))
    single, means = curve(str(tmp_path / "single")), curve(str(tmp_path / "means"))
    assert list(single) == [1, 2, 3, 4, 5, 6, 7]
    assert list(means) == [3, 6, 7]
    assert_close(means[3], np.mean([single[1], single[2], single[3]]), FLOAT32_MODEL_TOLERANCE)
    assert_close(means[7], single[7], FLOAT32_MODEL_TOLERANCE)


def test_the_usual_tags_are_written(tmp_path: pathlib.Path) -> None:
    quick_train(str(tmp_path), options(2))
    tags = ("loss", "loss/perplexity", "learning_rate", "norm/gradient")
    rates = ("perf/steps_per_sec", "perf/tokens_per_sec", "perf/data_wait_fraction")
    for tag in (*tags, *rates, "data/padding_fraction"):
        assert list(curve(str(tmp_path), tag)) == [1, 2], tag
    assert curve(str(tmp_path), "learning_rate")[2] == pytest.approx(0.1)


def test_checkpoints_and_evaluations_are_due_at_their_steps_and_at_the_end(
    tmp_path: pathlib.Path,
) -> None:
    evaluated: list[int] = []
    quick_train(
        str(tmp_path),
        options(11, checkpoints=CheckpointOptions(every_steps=4, max_to_keep=None)),
        actions=[Evaluating(lambda step, note, check: evaluated.append(step), 5)],
    )
    assert RunDirectory(str(tmp_path)).checkpoints().steps() == [4, 8, 11]
    assert evaluated == [5, 10, 11]


def test_a_finished_run_is_not_changed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick_train(str(tmp_path), options(3))
    files = sorted(path for path in tmp_path.rglob("*"))
    capsys.readouterr()
    evaluated: list[int] = []
    _, result = quick_train(
        str(tmp_path),
        options(3),
        actions=[Evaluating(lambda step, note, check: evaluated.append(step))],
    )
    assert (result.step, result.signal, evaluated) == (3, None, [])
    assert capsys.readouterr().err.splitlines() == [
        "already finished at step 3; raise TRAIN_STEPS to train more"
    ]
    assert sorted(path for path in tmp_path.rglob("*")) == files


def test_data_that_ends_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="training data has come to an end"):
        quick_train(str(tmp_path), options(9), data=itertools.islice(batches(), 3))


def test_a_profile_is_recorded(tmp_path: pathlib.Path) -> None:
    quick_train(str(tmp_path), options(7, profile=True))
    traces = tf.io.gfile.glob(str(tmp_path / "train/plugins/profile/*/*"))
    assert traces


@pytest.mark.parametrize("name", ["train_steps", "iterations_per_loop", "microbatches"])
def test_options_must_be_positive_whole_numbers(name: str) -> None:
    for value in (0, -1, 1.5):
        settings: dict[str, Any] = {"train_steps": 1, name: value}
        with pytest.raises(ValueError, match=f"^TrainOptions.{name} is"):
            TrainOptions(**settings)
