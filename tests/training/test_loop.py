"""Tests of mtfrun.training.loop: points, checkpoints, resumption, signals."""

from __future__ import annotations

import functools
import hashlib
import itertools
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.experiment import ModelMetrics
from mtfrun.models.model import Model
from mtfrun.rundir import RunDirectory
from mtfrun.training import CheckpointOptions, EarlyStopping, MaxHours, TrainOptions, TrainState
from mtfrun.training.hooks.hook import StepRecord
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.training.toy_model import Bigram, OneVariable, batches
from tests.training.toy_run import (
    Evaluating,
    curve,
    first_features,
    parameters,
    quick_train,
    take_steps,
    toy_train,
)


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainOptions(0), "TrainOptions.train_steps is 0: it must be an integer"),
        (lambda: TrainOptions(1, iterations_per_loop=1.5), "iterations_per_loop is 1.5"),  # type: ignore[arg-type]
        (lambda: TrainOptions(1, microbatches=-1), "TrainOptions.microbatches is -1"),
        (lambda: TrainOptions(1, secs_per_loop=0.0), r"secs_per_loop is 0\.0: .* more than 0"),
        (lambda: TrainOptions(1, clip_norm=0.0), r"clip_norm is 0\.0: .* more than 0"),
        (lambda: TrainOptions(1, on_nan="ignore"), "on_nan is 'ignore': it must be 'stop' or"),
        (lambda: CheckpointOptions(0), "CheckpointOptions.every_steps is 0: it must be an int"),
        (lambda: CheckpointOptions(every_secs=float("nan")), "every_secs is nan: it must be"),
        (lambda: CheckpointOptions(max_to_keep=-1), "max_to_keep is -1: it must be an integer"),
        (lambda: EarlyStopping(patience=0), "EarlyStopping.patience is 0"),
        (lambda: EarlyStopping(min_delta=-1.0), "EarlyStopping.min_delta is -1.0"),
        (lambda: EarlyStopping(mode="best"), "EarlyStopping.mode is 'best'"),
        (lambda: MaxHours(0), "max_hours is 0"),
    ],
)
def test_options_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
    assert TrainOptions(1, secs_per_loop=0.5, clip_norm=0.1).secs_per_loop == 0.5


LAYOUT = "batch:data;d_ff:model"


def _train(model: Model, mesh: mtf.Mesh, microbatches: int = 1) -> tuple[TrainState, StepRecord]:
    state = TrainState(model, optim.Adam(learning_rate=0.05), mesh, seed=3)
    state.initialize()
    return state, take_steps(state, 2, 16, microbatches=microbatches)


@functools.cache
def _digest(mesh_shape: str, reproducible: str, microbatches: int) -> str:
    """Returns the SHA-256 of two steps' losses and norms and of all variables after them."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT, reproducible=reproducible)
    state, record = _train(Bigram(mesh), mesh, microbatches)
    digest = hashlib.sha256()
    for array in tf.nest.flatten((record, mtf.to_numpy(state.named_variables()))):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "reproducible", "microbatches"),
    [
        ("data:2,model:1", "data:4", 1),
        ("data:8,model:1", "data:8", 2),
        ("data:4,model:2", "data:4,model:2", 1),
    ],
)
def test_more_devices_change_no_bit(mesh_shape: str, reproducible: str, microbatches: int) -> None:
    """Of losses, gradient norms, variables and slots."""
    one = "data:1,model:2" if "model" in reproducible else ONE_DEVICE
    expected = _digest(one, reproducible, microbatches)
    assert _digest(mesh_shape, reproducible, microbatches) == expected


@pytest.mark.slow
def test_the_parts_are_the_batch() -> None:
    norms: list[np.ndarray] = []
    sums: list[list[float]] = []
    for reproducible in ("", "data:4"):
        mesh = mtf.Mesh("data:2,model:1", LAYOUT, reproducible=reproducible)
        state, record = _train(OneVariable(mesh), mesh)
        norms.append(record.gradient_norm)
        evaluated = ModelMetrics(state.model, mesh).sums_of_batch(first_features(mesh, batch=16))
        sums.append([float(evaluated.totals["loss"]), evaluated.weights["loss"]])
    assert_close(norms[1], norms[0], FLOAT32_MODEL_TOLERANCE)
    assert_close(sums[1], sums[0], FLOAT32_MODEL_TOLERANCE)
