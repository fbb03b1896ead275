"""Tests of mtfrun.training.step: the numbers do not depend on mesh, visits or microbatches."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import Infeed
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.training.toy_model import Bigram, batches

LAYOUT = "batch:data;d_ff:model"
MESHES = ("data:2,model:1", "data:1,model:2", "data:2,model:2", "data:4,model:2")


@functools.cache
def losses(mesh_shape: str, visits=(3, 2), *, microbatches=1, clip_norm=None, capacity=3):
    """Returns the losses of the steps, visit by visit, and the final embedding."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    state = TrainState(Bigram(mesh), optim.Adam(learning_rate=0.05), mesh, seed=3)
    state.initialize()
    shape = mtf.convert_to_shape("batch:8;length:6")
    infeed = Infeed(iter(batches()), mesh, {"targets": shape})
    run = train_steps_function(state, microbatches=microbatches, clip_norm=clip_norm)
    found = []
    for count in visits:
        history = run(infeed.next(count, capacity), mtf.constant(mesh, count, dtype=tf.int32))
        loss = mtf.to_numpy(history["loss"])
        found.extend(loss.total[:count] / loss.weight[:count])
        assert not loss.weight[count:].any()
    assert state.finished_steps == sum(visits)
    return np.array(found), mtf.to_numpy(state.model.embedding)


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("mesh_shape", MESHES)
def test_losses_and_parameters_are_those_of_one_device(mesh_shape, microbatches):
    expected = losses("data:1,model:1", microbatches=microbatches)
    actual = losses(mesh_shape, microbatches=microbatches)
    assert_close(actual[0], expected[0], FLOAT32_MODEL_TOLERANCE)
    assert_close(actual[1], expected[1], FLOAT32_MODEL_TOLERANCE)


def test_the_partition_into_visits_changes_no_bit():
    one = losses("data:1,model:1", visits=(5,), capacity=5)
    many = losses("data:1,model:1", visits=(1, 3, 1))
    np.testing.assert_array_equal(one[0], many[0])
    np.testing.assert_array_equal(one[1], many[1])


def test_training_lowers_the_loss():
    found, _ = losses("data:1,model:1", visits=(20, 20), capacity=20)
    assert found[-5:].mean() < 0.7 * found[:5].mean()


def test_clipping_bounds_what_the_optimizer_sees():
    mesh = mtf.Mesh()
    state = TrainState(Bigram(mesh), optim.Sgd(learning_rate=1.0), mesh)
    state.initialize()
    before = mtf.to_numpy(state.model.named_variables())
    infeed = Infeed(iter(batches()), mesh, {"targets": mtf.convert_to_shape("batch:8;length:6")})
    run = train_steps_function(state, clip_norm=0.01)
    history = mtf.to_numpy(run(infeed.next(1), mtf.constant(mesh, 1, dtype=tf.int32)))
    after = mtf.to_numpy(state.model.named_variables())
    moved = np.sqrt(sum(np.sum((after[path] - before[path]) ** 2) for path in before))
    assert history["grad_norm"].total[0] > 0.01
    assert_close(moved, np.float32(0.01), FLOAT32_MODEL_TOLERANCE)


def test_a_frozen_variable_stays_and_the_others_move():
    mesh = mtf.Mesh()
    state = TrainState(Bigram(mesh), optim.Sgd(learning_rate=1.0), mesh, frozen=["^embedding$"])
    state.initialize()
    before = mtf.to_numpy(state.model.named_variables())
    infeed = Infeed(iter(batches()), mesh, {"targets": mtf.convert_to_shape("batch:8;length:6")})
    train_steps_function(state)(infeed.next(1), mtf.constant(mesh, 1, dtype=tf.int32))
    after = mtf.to_numpy(state.model.named_variables())
    np.testing.assert_array_equal(after["embedding"], before["embedding"])
    assert np.abs(after["softmax"] - before["softmax"]).max() > 0


def test_a_batch_that_microbatches_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="batch 8 cannot be split into 3 microbatches"):
        losses("data:1,model:1", microbatches=3)


def test_a_variable_without_gradient_is_named():
    class Unused(Bigram):
        def __init__(self, mesh):
            super().__init__(mesh)
            self.idle = mtf.Variable(mesh, [self.d_model])

    mesh = mtf.Mesh()
    state = TrainState(Unused(mesh), optim.Sgd(learning_rate=1.0), mesh)
    state.initialize()
    infeed = Infeed(iter(batches()), mesh, {"targets": mtf.convert_to_shape("batch:8;length:6")})
    with pytest.raises(ValueError, match="does not depend on 'idle'"):
        train_steps_function(state)(infeed.next(1), mtf.constant(mesh, 1, dtype=tf.int32))
