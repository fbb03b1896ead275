"""Tests of mtfrun.training.step: the numbers do not depend on mesh, visits or microbatches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import Infeed
from mtfrun.training import TrainOptions, TrainState, train_steps_function
from mtfrun.training.options import StepOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close, meshes
from tests.training.toy_model import Bigram, batches
from tests.training.toy_run import take_steps

LAYOUT = "batch:data;d_ff:model"


@functools.cache
def losses(
    mesh_shape: str,
    visits: tuple[int, ...] = (3, 2),
    *,
    microbatches: int = 1,
    capacity: int = 3,
    jit_compile: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses of all steps, and the final embedding."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    state = TrainState(Bigram(mesh), optim.Adam(learning_rate=0.05), mesh, seed=3)
    state.initialize()
    # Two microbatches on eight devices.
    shape = mtf.convert_to_shape("batch:16;length:6")
    infeed = Infeed(batches(batch=16), mesh, {"targets": shape})
    run = train_steps_function(
        state, StepOptions(microbatches=microbatches, jit_compile=jit_compile)
    )
    values: list[float] = []
    for count in visits:
        features = infeed.next(count, capacity)
        assert features is not None
        record = run(features, mtf.constant(mesh, count, dtype=tf.int32))
        loss = mtf.to_numpy(record.metrics["loss"])
        values.extend(loss.total[:count] / loss.weight[:count])
        assert not loss.weight[count:].any()
    assert state.finished_steps == sum(visits)
    return np.array(values), mtf.to_numpy(state.model.named_variables()["embedding"])


@pytest.mark.parametrize("microbatches", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("mesh_shape", meshes())
def test_losses_and_parameters_are_those_of_one_device(mesh_shape: str, microbatches: int) -> None:
    expected = losses("data:1,model:1", microbatches=microbatches)
    actual = losses(mesh_shape, microbatches=microbatches)
    assert_close(actual[0], expected[0], FLOAT32_MODEL_TOLERANCE)
    assert_close(actual[1], expected[1], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_the_partition_into_visits_changes_no_bit() -> None:
    one = losses("data:1,model:1", microbatches=2)
    many = losses("data:1,model:1", visits=(1, 4), capacity=5, microbatches=2)
    np.testing.assert_array_equal(one[0], many[0])
    np.testing.assert_array_equal(one[1], many[1])


@pytest.mark.parametrize(
    ("mesh_shape", "microbatches"),
    [
        (ONE_DEVICE, 2),
        pytest.param(ONE_DEVICE, 1, marks=pytest.mark.slow),
        pytest.param("data:2,model:2", 2, marks=pytest.mark.slow),
    ],
)
def test_xla_computes_the_same(mesh_shape: str, microbatches: int) -> None:
    expected = losses(ONE_DEVICE, microbatches=microbatches)
    actual = losses(mesh_shape, microbatches=microbatches, jit_compile=True)
    assert_close(actual[0], expected[0], FLOAT32_MODEL_TOLERANCE)
    assert_close(actual[1], expected[1], FLOAT32_MODEL_TOLERANCE)


def test_xla_compiles_the_steps_of_one_accelerator_unless_told_otherwise() -> None:
    mesh, options = mtf.Mesh(), TrainOptions(1)
    assert not options.uses_xla(mesh)
    assert dataclasses.replace(options, jit_compile=True).uses_xla(mesh)
    mesh.devices = ["GPU:0"]
    assert options.uses_xla(mesh)
    assert not dataclasses.replace(options, jit_compile=False).uses_xla(mesh)


def test_gradients_are_those_before_clipping() -> None:
    mesh = mtf.Mesh()
    records = {
        clip_norm: take_steps(_state(Bigram(mesh), mesh), clip_norm=clip_norm, with_gradients=True)
        for clip_norm in (None, 0.01)
    }
    gradients: dict[str, Any] = records[0.01].gradients
    assert list(gradients) == ["embedding", "hidden", "softmax"]
    for path, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, records[None].gradients[path])
    norm = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients.values()))
    assert_close(records[None].gradient_norm[0], norm, FLOAT32_MODEL_TOLERANCE)


def _state(model: Bigram, mesh: mtf.Mesh, frozen: Sequence[str] = ()) -> TrainState:
    """Returns an initialised state with a learning rate of 1."""
    state = TrainState(model, optim.Sgd(learning_rate=1.0), mesh, frozen=frozen)
    state.initialize()
    return state


def test_clipping_bounds_what_the_optimizer_sees() -> None:
    mesh = mtf.Mesh()
    state = _state(Bigram(mesh), mesh)
    before = mtf.to_numpy(state.model.named_variables())
    record = take_steps(state, clip_norm=0.01)
    after = mtf.to_numpy(state.model.named_variables())
    change = np.sqrt(sum(np.sum((after[path] - before[path]) ** 2) for path in before))
    assert record.gradient_norm[0] > 0.01
    assert_close(change, np.float32(0.01), FLOAT32_MODEL_TOLERANCE)


def test_a_frozen_variable_does_not_change_and_the_others_do() -> None:
    mesh = mtf.Mesh()
    state = _state(Bigram(mesh), mesh, frozen=["^embedding$"])
    before = mtf.to_numpy(state.model.named_variables())
    take_steps(state)
    after = mtf.to_numpy(state.model.named_variables())
    np.testing.assert_array_equal(after["embedding"], before["embedding"])
    assert np.abs(after["softmax"] - before["softmax"]).max() > 0


def test_a_batch_that_microbatches_do_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="batch 16 cannot be split into 3 microbatches"):
        losses("data:1,model:1", microbatches=3)


def test_a_variable_without_gradient_is_named() -> None:
    class Unused(Bigram):
        def __init__(self, mesh: mtf.Mesh):
            super().__init__(mesh)
            self.idle = mtf.Variable(mesh, [self.d_model])

    mesh = mtf.Mesh()
    state = _state(Unused(mesh), mesh)
    with pytest.raises(ValueError, match="does not depend on 'idle'"):
        take_steps(state)
