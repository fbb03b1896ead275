"""With Mesh.reproducible a training has the same bits on any number of devices."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import Infeed
from mtfrun.evaluation import ModelMetrics
from mtfrun.models.model import Model
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.step import StepRecord
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.training.toy_model import Bigram, OneVariable, batches

LAYOUT = "batch:data;d_ff:model"
SHAPES = {"targets": mtf.convert_to_shape("batch:16;length:6")}


def _train(model: Model, mesh: mtf.Mesh, microbatches: int = 1) -> tuple[TrainState, StepRecord]:
    state = TrainState(model, optim.Adam(learning_rate=0.05), mesh, seed=3)
    state.initialize()
    features = Infeed(batches(batch=16), mesh, SHAPES).next(2)
    assert features is not None
    run = train_steps_function(state, microbatches=microbatches)
    return state, run(features, mtf.constant(mesh, 2, dtype=tf.int32))


@functools.cache
def _digest(mesh_shape: str, reproducible: str, microbatches: int) -> str:
    """Returns the SHA-256 of two steps' losses and norms and of all variables after them."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT, reproducible=reproducible)
    state, record = _train(Bigram(mesh), mesh, microbatches)
    digest = hashlib.sha256()
    for array in tf.nest.flatten(mtf.to_numpy((record, state.named_variables()))):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("mesh_shape", "reproducible", "microbatches"),
    [
        ("data:2,model:1", "data:4", 1),
        pytest.param("data:4,model:1", "data:4", 1, marks=pytest.mark.slow),
        pytest.param("data:2,model:1", "data:8", 2, marks=pytest.mark.slow),
        pytest.param("data:8,model:1", "data:8", 2, marks=pytest.mark.slow),
        pytest.param("data:2,model:2", "data:4,model:2", 1, marks=pytest.mark.slow),
        pytest.param("data:4,model:2", "data:4,model:2", 1, marks=pytest.mark.slow),
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
        norms.append(mtf.to_numpy(record.gradient_norm))
        features = Infeed(batches(batch=16), mesh, SHAPES).next(1)
        assert features is not None
        evaluated = ModelMetrics(state.model, mesh).sums_of_batch(features)
        sums.append([float(evaluated.totals["loss"]), evaluated.weights["loss"]])
    assert_close(norms[1], norms[0], FLOAT32_MODEL_TOLERANCE)
    assert_close(sums[1], sums[0], FLOAT32_MODEL_TOLERANCE)
