"""Sophia besides layouts: ten updates by the paper's formulas, and training on meshes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras import optimizers
from mtfrun.extras.optimizers.sophia import Sample
from mtfrun.layers import Metric
from mtfrun.models.model import Features, Loss, Model
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.options import StepOptions
from mtfrun.training.step import first_microbatch
from tests.layouts import (
    FLOAT32_MODEL_TOLERANCE,
    FLOAT32_OP_TOLERANCE,
    ONE_DEVICE,
    assert_close,
    meshes,
)
from tests.optim.updates import make_variables
from tests.training.toy_model import OneVariable

MESH = mtf.Mesh(ONE_DEVICE)
RATE, DECAY, BETA1, BETA2, GAMMA = 0.02, 0.1, 0.9, 0.8, 0.5
NUM_STEPS = 10
SIZES = {"ids": 6, "classes": 8, "batch": 16, "length": 4}


def test_ten_updates_are_those_of_the_formulas() -> None:
    rng = np.random.default_rng(0)
    parameter, number = rng.normal(size=[4, 6]).astype(np.float32), 5.0
    gradients, sampled = rng.normal(size=[2, NUM_STEPS, 4, 6]).astype(np.float32)
    optimizer = optimizers.Sophia(
        RATE, BETA1, 1e-3, DECAY, curvature=optimizers.Curvature(BETA2, GAMMA, 3)
    )
    variables = make_variables(MESH, {"w": parameter}, {"w": ["d_ff", "d_model"]})
    optimizer.init(variables)
    for path, slot in optimizer.named_slots().items():
        slot.initialize(seed=0, path=path)

    @mtf.function
    def update(gradient: mtf.Tensor, draw: mtf.Tensor, step: mtf.Tensor) -> None:
        def sample() -> Sample:
            return {"w": draw}, mtf.constant(MESH, number)

        for variable, value in optimizer.update({"w": gradient}, step, sample).items():
            mtf.assign(variable, value)

    p, m, h = parameter.astype(np.float64), np.zeros([4, 6]), np.zeros([4, 6])
    shape = variables["w"].shape
    for step in range(NUM_STEPS):
        arrays = [mtf.import_tf_tensor(MESH, x[step], shape) for x in (gradients, sampled)]
        update(*arrays, mtf.import_tf_tensor(MESH, np.int32(step), []))
        m = BETA1 * m + (1 - BETA1) * gradients[step]
        if step % 3 == 0:
            h = BETA2 * h + (1 - BETA2) * number * np.square(sampled[step], dtype=np.float64)
        p = p - RATE * (np.clip(m / np.maximum(GAMMA * h, 1e-3), -1, 1) + DECAY * p)
        actual = mtf.to_numpy(mtf.read_variable(variables["w"]))
        assert_close(actual, p.astype(np.float32), FLOAT32_OP_TOLERANCE)


class _Table(Model):
    """Predicts a class from an id alone: one vector of logits for each id."""

    required_features = ("ids", "classes")

    def __init__(self, mesh: mtf.Mesh) -> None:
        super().__init__()
        dims = [mtf.Dimension(name, SIZES[name]) for name in ("ids", "classes")]
        self.table = mtf.Variable(mesh, dims, mtf.initializers.RandomNormal(1.0))

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        classes = self.table.shape[-1]
        nats = mtf.sparse_softmax_cross_entropy(self.logits(features), features["classes"], classes)
        total = mtf.reduce_sum(nats * self.target_weights(features))
        weight = mtf.reduce_sum(self.target_weights(features))
        return Loss(total, weight, {"loss": Metric(total, weight)})

    def logits(self, features: Features) -> mtf.Tensor:
        return mtf.gather(self.table, features["ids"], self.table.shape[0])

    def target_weights(self, features: Features) -> mtf.Tensor:
        return mtf.to_float(mtf.greater(features["classes"], 0))


def _features(mesh: mtf.Mesh, *leading: int) -> tuple[dict[str, np.ndarray], Features]:
    rng = np.random.default_rng(3)
    sizes = [*leading, SIZES["batch"], SIZES["length"]]
    names = [*["steps"][: len(leading)], "batch", "length"]
    dims = [mtf.Dimension(*pair) for pair in zip(names, sizes, strict=True)]
    arrays = {x: rng.integers(0, SIZES[x], sizes).astype(np.int32) for x in ("ids", "classes")}
    return arrays, {x: mtf.import_tf_tensor(mesh, y, dims) for x, y in arrays.items()}


def _state(mesh: mtf.Mesh, *, every_steps: int = 2) -> TrainState:
    curvature = optimizers.Curvature(BETA2, GAMMA, every_steps)
    optimizer = optimizers.Sophia(RATE, BETA1, weight_decay=DECAY, curvature=curvature)
    state = TrainState(_Table(mesh), optimizer, mesh, seed=3)
    state.initialize()
    return state


def _sample(state: TrainState, features: Features, step: mtf.Tensor | int = 0) -> Sample:
    key = mtf.random_key(state.seed, step)
    arguments = state.optimizer.extra_gradients(state.model, features, key)
    sampled: Sample = arguments["sample"]()
    return sampled


def test_estimates_have_the_mean_of_the_gauss_newton_diagonal() -> None:
    state = _state(MESH)
    arrays, features = _features(MESH)

    @mtf.function
    def estimate(step: mtf.Tensor) -> mtf.Tensor:
        gradients, number = _sample(state, features, step)
        gradient = gradients["table"]
        assert gradient is not None
        return mtf.square(gradient) * number

    draws = [
        mtf.to_numpy(estimate(mtf.import_tf_tensor(MESH, np.int64(i), []))) for i in range(600)
    ]
    logits = mtf.to_numpy(mtf.read_variable(state.trainable["table"])).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    weights = arrays["classes"] > 0
    of_each_id = np.bincount(arrays["ids"][weights], minlength=SIZES["ids"])
    expected = of_each_id[:, np.newaxis] * p * (1 - p) / weights.sum()
    error = np.mean(draws, 0) - expected
    standard_error = np.std(draws, 0) / np.sqrt(len(draws))
    assert np.abs(error / standard_error).max() < 4.5


@functools.cache
def _train(mesh_shape: str, microbatches: int) -> dict[str, np.ndarray]:
    """Returns the variable and its slots after five steps, three with estimates."""
    mesh = mtf.Mesh(mesh_shape, "batch:data;classes:model")
    state = _state(mesh)
    _, features = _features(mesh, 5)
    run = train_steps_function(state, StepOptions(microbatches=microbatches))
    run(features, mtf.constant(mesh, 5, dtype=tf.int32))
    values: dict[str, np.ndarray] = mtf.to_numpy(
        {**state.trainable, **state.optimizer.named_slots()}
    )
    return values


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("mesh_shape", meshes())
def test_a_layout_changes_no_step(mesh_shape: str, microbatches: int) -> None:
    expected = _train(ONE_DEVICE, microbatches)
    assert np.abs(expected["table/h"]).min() > 0
    for path, value in _train(mesh_shape, microbatches).items():
        assert_close(value, expected[path], FLOAT32_MODEL_TOLERANCE)


def test_estimates_are_made_from_the_first_microbatch() -> None:
    arrays, features = _features(MESH)
    _, number = _sample(_state(MESH), first_microbatch(features, 2))
    assert mtf.to_numpy(number) == (arrays["classes"][::2] > 0).sum()


def test_models_without_logits_and_reproducible_meshes_are_refused() -> None:
    state = TrainState(OneVariable(MESH), optimizers.Sophia(RATE), MESH)
    state.initialize()
    targets = mtf.zeros(MESH, "batch:2;length:2", tf.int32)
    with pytest.raises(InputError, match=r"^OneVariable has no logits$"):
        _sample(state, {"targets": targets})
    mesh = mtf.Mesh(ONE_DEVICE, "batch:data", reproducible="data:4")
    _, features = _features(mesh)
    with pytest.raises(InputError, match=r"^optimizers\.Sophia .* Mesh\.reproducible"):
        _sample(_state(mesh), features)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match=r"gamma"):
        optimizers.Curvature(gamma=0.0)
