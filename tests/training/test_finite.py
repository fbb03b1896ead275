"""Tests of mtfrun.training.hooks.finite: no checkpoint has numbers that are not finite."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.models import FiniteCheck, NonFiniteError
from mtfrun.rundir import RunDirectory
from mtfrun.training import CheckpointOptions, TrainOptions, TrainState
from mtfrun.training.curves import HostMetric
from mtfrun.training.hooks.finite import BadStep, FiniteGuard
from mtfrun.training.hooks.hook import HostRecord, StepRecord
from tests.layouts import ONE_DEVICE
from tests.training.toy_model import Bigram, batches
from tests.training.toy_run import LAYOUT, quick_train

HUGE = 1e39  # infinite as float32


def _options(train_steps: int) -> TrainOptions:
    return TrainOptions(
        train_steps=train_steps,
        iterations_per_loop=3,
        log_every_steps=1,
        checkpoints=CheckpointOptions(every_steps=1, max_to_keep=None),
    )


def _written(path: pathlib.Path) -> dict[str, Any]:
    """Returns the contents of a file that must be standard JSON."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def _batch(step: int) -> list[list[int]]:
    """Returns the targets of the batch of a step."""
    endless = batches()
    endless.position = (step - 1) * endless.batch
    targets: list[list[int]] = next(endless)["targets"].tolist()
    return targets


def test_infinite_weights_are_not_saved_and_their_step_is_described(tmp_path: pathlib.Path) -> None:
    expected = r"variable model/\w+ of step 1 is not finite; there is no good checkpoint yet"
    with pytest.raises(NonFiniteError, match=expected):
        quick_train(str(tmp_path), _options(1), learning_rate=HUGE)
    assert RunDirectory(str(tmp_path)).checkpoints().steps() == []
    report = _written(tmp_path / "nan_step_1.json")
    assert report["step"] == 1 and report["variable"].startswith("model/")
    assert report["rows"] == {"targets": _batch(1)}


@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
def test_the_error_names_the_last_good_checkpoint(tmp_path: pathlib.Path, mesh_shape: str) -> None:
    quick_train(str(tmp_path), _options(4), mesh_shape=mesh_shape)
    with pytest.raises(NonFiniteError, match=r"of step 5 .*last good checkpoint is step 4"):
        quick_train(str(tmp_path), _options(12), learning_rate=float("inf"), mesh_shape=mesh_shape)
    assert RunDirectory(str(tmp_path)).checkpoints().steps() == [1, 2, 3, 4]
    assert _written(tmp_path / "nan_step_5.json")["rows"] == {"targets": _batch(5)}


def test_a_loss_that_is_not_finite_names_its_own_step(tmp_path: pathlib.Path) -> None:
    """Without a checkpoint in between, the loss of the next step shows it."""
    options = TrainOptions(9, 9, checkpoints=CheckpointOptions(every_steps=None))
    with pytest.raises(NonFiniteError, match="the loss of step 2 is not finite"):
        quick_train(str(tmp_path), options, learning_rate=HUGE)
    assert _written(tmp_path / "nan_step_2.json")["rows"] == {"targets": _batch(2)}


def test_an_infinite_gradient_is_found_in_its_step(tmp_path: pathlib.Path) -> None:
    mesh = mtf.Mesh()
    state = TrainState(Bigram(mesh), optim.Sgd(learning_rate=1.0), mesh)
    state.initialize()
    zeros = np.zeros(4)
    objective, norms = HostMetric(np.ones(4), np.ones(4)), np.array([1.0, 2.0, np.inf, 0.0])
    record = StepRecord({}, objective, zeros, norms, skipped=zeros, non_finite_gradient=zeros)
    guard = FiniteGuard(state, RunDirectory(tmp_path))
    guard.check_steps(HostRecord(10, 2, record, {}, {}, 0.0))
    with pytest.raises(BadStep, match="the norm of the gradients of step 13 is not finite") as bad:
        guard.check_steps(HostRecord(10, 3, record, {}, {}, 0.0))
    error = guard.error(bad.value, {}, 2, good_step=8)
    assert "the last good checkpoint is step 8" in str(error)
    assert _written(tmp_path / "nan_step_13.json") == {
        "step": 13,
        "variable": None,
        "gradient": None,
        "rows": {},
    }


@pytest.mark.slow
def test_a_checkpoint_that_is_not_finite_is_not_good(tmp_path: pathlib.Path) -> None:
    """An earlier version has saved such a checkpoint: the error names an older one."""
    state, _ = quick_train(str(tmp_path), _options(3))
    hidden = state.model.named_variables()["hidden"].variable
    hidden.assign(tf.fill(hidden.shape, np.inf))
    checkpoints = RunDirectory(str(tmp_path)).checkpoints(max_to_keep=None)
    for step in (5, 7):
        checkpoints.save(step, state.storage(), metadata={"data_position": 8 * step})
    expected = r"model/hidden of checkpoint 7 .*last good checkpoint is step 3: start from it"
    with pytest.raises(NonFiniteError, match=expected):
        quick_train(str(tmp_path), _options(9))
    assert checkpoints.steps() == [1, 2, 3, 5, 7]


def test_the_first_variable_is_named_on_every_mesh(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    state = TrainState(Bigram(mesh), optim.Adam(learning_rate=0.1), mesh)
    state.initialize()
    check = FiniteCheck(state.named_variables())
    assert check.first_non_finite() is None
    slots = {path: v for path, v in state.named_variables().items() if "optimizer" in path}
    path, slot = list(slots.items())[-1]
    last = np.zeros(slot.shape.to_integer_list, np.float32)
    last.flat[-1] = np.nan
    mtf.assign(slot, mtf.import_tf_tensor(mesh, last, slot.shape))
    assert check.first_non_finite() == path
    hidden = state.model.named_variables()["hidden"]
    first = np.full(hidden.shape.to_integer_list, -np.inf, np.float32)
    mtf.assign(hidden, mtf.import_tf_tensor(mesh, first, hidden.shape))
    assert check.first_non_finite() == "model/hidden"
