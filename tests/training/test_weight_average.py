"""Averages of the weights: values, layouts, resumption, evaluation."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import mtf, optim
from mtfrun.data import Infeed
from mtfrun.errors import InputError
from mtfrun.extras import optimizers
from mtfrun.training import (
    Action,
    ActionContext,
    CheckpointOptions,
    TrainOptions,
    TrainState,
    train_steps_function,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.resnet.small_resnet import SHAPES, image_batch, small_resnet
from tests.training.toy_model import Bigram
from tests.training.toy_run import Evaluating, parameters, quick_train, take_steps, toy_train

DECAY = 0.4


def _expected(values: list[np.ndarray]) -> np.ndarray:
    """Returns the average of the values after each step."""
    average = np.zeros_like(values[0])
    for step, value in enumerate(values):
        decay = min(DECAY, step / (step + 9))
        average = decay * average + (1 - decay) * value
    return average


def _options(steps: int) -> TrainOptions:
    return TrainOptions(steps, 3, checkpoints=CheckpointOptions(every_steps=None))


class Recording(Action):
    """Notes the values of all variables after every step."""

    every_steps = 1

    def __init__(self, values: list[dict[str, np.ndarray]]):
        self._values = values

    def __call__(self, context: ActionContext) -> None:
        self._values.append(parameters(context.state))


def test_averages_are_those_of_the_values_after_each_step(tmp_path: pathlib.Path) -> None:
    steps = 9  # from the eighth on the decay is DECAY
    runs: list[dict[str, np.ndarray]] = []
    toy_train(str(tmp_path / "plain"), _options(steps), actions=[Recording(runs)])
    averaged = parameters(
        toy_train(str(tmp_path / "averaged"), _options(steps), average_decay=DECAY)[0]
    )
    for path in ("embedding", "hidden", "softmax"):
        np.testing.assert_array_equal(averaged[f"model/{path}"], runs[-1][f"model/{path}"])
        expected = _expected([run[f"model/{path}"] for run in runs])
        assert_close(averaged[f"averages/{path}"], expected, FLOAT32_MODEL_TOLERANCE)
        assert np.abs(expected - runs[-1][f"model/{path}"]).max() > 1e-3


@pytest.mark.slow
def test_a_resumed_run_has_the_same_averages_to_the_bit(tmp_path: pathlib.Path) -> None:
    uninterrupted, _ = quick_train(str(tmp_path / "one"), _options(10), average_decay=DECAY)
    quick_train(str(tmp_path / "two"), _options(4), average_decay=DECAY)
    resumed, _ = quick_train(
        str(tmp_path / "two"),
        _options(10),
        average_decay=DECAY,
        actions=[Evaluating(lambda step, note, check: None)],
    )
    assert any(path.startswith("averages/") for path in parameters(uninterrupted))
    for path, value in parameters(uninterrupted).items():
        np.testing.assert_array_equal(parameters(resumed)[path], value, err_msg=path)


FILTERS = "batch:data;filters:model"


@functools.cache
def _trained_resnet(mesh_shape: str, layout: str) -> TrainState:
    """Returns a state after four steps, which tests do not change."""
    mesh = mtf.Mesh(mesh_shape, layout)
    state = TrainState(
        small_resnet(mesh, stage_sizes=[1], widths=[4]),
        optim.Sgd(0.02),
        mesh,
        frozen=["^softmax/bias$"],
        average_decay=DECAY,
    )
    state.initialize()
    batches = [image_batch(seed) for seed in range(4)]
    features = Infeed(iter(batches), mesh, SHAPES).next(4)
    assert features is not None
    train_steps_function(state)(features, mtf.constant(mesh, 4, dtype=tf.int32))
    return state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "layout"), [("data:4,model:1", "batch:data"), ("data:2,model:2", FILTERS)]
)
def test_layouts_change_no_average_and_averages_have_the_layouts_of_their_variables(
    mesh_shape: str, layout: str
) -> None:
    expected = mtf.to_numpy(_trained_resnet(ONE_DEVICE, "").named_averages())
    state = _trained_resnet(mesh_shape, layout)
    variables, averages = state.model.named_variables(), state.named_averages()
    # Everything that steps change: moving averages of norms as well, but no frozen variables.
    assert averages.keys() == variables.keys() - {"softmax/bias"}
    assert any(path.endswith("moving_variance") for path in averages)
    for path, average in averages.items():
        assert_close(mtf.to_numpy(average), expected[path], FLOAT32_MODEL_TOLERANCE)
        assert dtensor.fetch_layout(average.variable) == dtensor.fetch_layout(
            variables[path].variable
        )


@pytest.mark.slow
def test_a_model_has_its_averages_in_the_block() -> None:
    """On a mesh: see test_sharded_state.py."""
    state = _trained_resnet(ONE_DEVICE, "")
    weights = mtf.to_numpy(state.model.named_variables())
    averages = mtf.to_numpy(state.named_averages())
    with pytest.raises(RuntimeError), state.swap_averages():
        inside = mtf.to_numpy(state.model.named_variables())
        for path, value in inside.items():
            np.testing.assert_array_equal(value, averages.get(path, weights[path]), err_msg=path)
        raise RuntimeError
    for path, value in mtf.to_numpy(state.model.named_variables()).items():
        np.testing.assert_array_equal(value, weights[path], err_msg=path)
    for path, value in mtf.to_numpy(state.named_averages()).items():
        np.testing.assert_array_equal(value, averages[path], err_msg=path)


def test_averages_of_an_optimizer_are_evaluated_and_saved() -> None:
    mesh = mtf.Mesh()
    state = TrainState(Bigram(mesh), optimizers.ScheduleFreeAdam(0.05), mesh)
    state.initialize()
    take_steps(state, 3)
    saved = mtf.to_numpy(state.named_variables())
    with state.swap_averages():
        for path, value in mtf.to_numpy(state.model.named_variables()).items():
            np.testing.assert_array_equal(value, saved[f"averages/{path}"])
            assert np.abs(value - saved[f"model/{path}"]).max() > 1e-3
    for path, value in mtf.to_numpy(state.model.named_variables()).items():
        np.testing.assert_array_equal(value, saved[f"model/{path}"])
    with pytest.raises(InputError, match="ScheduleFreeAdam has averages of the weights itself"):
        TrainState(Bigram(mesh), optimizers.ScheduleFreeAdam(0.05), mesh, average_decay=0.9)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_outside_of_zero_to_one_is_an_error(decay: float, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=f"average_decay is {decay}: it must be"):
        quick_train(str(tmp_path), _options(1), average_decay=decay)
