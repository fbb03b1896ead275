"""Models whose loss is computed in blocks of tokens train as those that have all logits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf, optim
from mtfrun.models.transformer import TokenLoss, token_softmax
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, LAYOUTS, ONE_DEVICE, assert_close
from tests.models.small_model import LAYOUT, on_mesh, packed_rows, small_model
from tests.models.under_layouts import Step, assert_same_step, training_step

LOSSES = {"plain": TokenLoss(), "regularised": TokenLoss(label_smoothing=0.1, z_loss=0.01)}
CASES = [
    pytest.param(*case, marks=[] if case == ("regularised", True, ONE_DEVICE) else pytest.mark.slow)
    for case in itertools.product(LOSSES, [True, False], LAYOUTS)
]


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Blocks of 5 tokens for all logits; the arguments of every call."""
    calls = []

    def recorded(*args: Any, **kwargs: Any) -> list[mtf.Tensor]:
        calls.append((args, kwargs))
        return layers.loss_in_blocks(*args, **kwargs)

    monkeypatch.setattr(token_softmax, "BLOCK_LOGITS", 1)
    monkeypatch.setattr(token_softmax, "LEAST_BLOCK_TOKENS", 5)
    monkeypatch.setattr(token_softmax, "loss_in_blocks", recorded)
    return calls


def _step(loss: str, tied_softmax: bool, mesh_shape: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, num_layers=1, tied_softmax=tied_softmax, loss=LOSSES[loss])
    return training_step(model, mesh, packed_rows())


@pytest.mark.parametrize("loss, tied_softmax, mesh_shape", CASES)
def test_loss_metrics_and_gradients_are_those_of_all_logits(
    loss: str, tied_softmax: bool, mesh_shape: str, request: pytest.FixtureRequest
) -> None:
    expected = _step(loss, tied_softmax, ONE_DEVICE)
    calls = request.getfixturevalue("in_blocks")
    assert_same_step(_step(loss, tied_softmax, mesh_shape), expected)
    assert calls


def _trained(mesh_shape: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Returns the record of a step of two microbatches, and the parameters after it."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, num_layers=1, rematerialise=True, loss=LOSSES["regularised"])
    state = TrainState(model, optim.Sgd(learning_rate=0.1), mesh)
    state.initialize()
    shape = [("steps", 1), ("batch", 8), ("length", 12)]
    features = {
        name: mtf.import_tf_tensor(mesh, x[np.newaxis].astype(np.int32), shape)
        for name, x in packed_rows().items()
    }
    one = mtf.constant(mesh, 1, dtype=tf.int32)
    record = mtf.to_numpy(train_steps_function(state, microbatches=2)(features, one))
    return record, {path: mtf.to_numpy(v) for path, v in state.trainable.items()}


@pytest.mark.slow
def test_a_loop_of_microbatches_on_a_mesh_may_have_loops_over_blocks(
    request: pytest.FixtureRequest,
) -> None:
    expected, parameters = _trained(ONE_DEVICE)
    calls = request.getfixturevalue("in_blocks")
    record, actual = _trained("data:2,model:2")
    assert calls
    for name, metric in expected.metrics.items():
        assert_close(record.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)
    for path, value in parameters.items():
        assert_close(actual[path], value, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_evaluations_and_scores_have_the_values_of_all_logits(
    mesh_shape: str, request: pytest.FixtureRequest
) -> None:
    def evaluate(mesh_shape: str) -> Any:
        mesh = mtf.Mesh(mesh_shape, LAYOUT)
        model = small_model(mesh, num_layers=1)
        compute = mtf.function(lambda f: (model.loss(f, training=False), model.target_nats(f)))
        return mtf.to_numpy(compute(on_mesh(mesh, packed_rows())))

    expected, expected_nats = evaluate(ONE_DEVICE)
    calls = request.getfixturevalue("in_blocks")
    actual, nats = evaluate(mesh_shape)
    assert len(calls) == 2
    for name, metric in expected.metrics.items():
        assert_close(actual.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)
    assert_close(nats, expected_nats, FLOAT32_MODEL_TOLERANCE)
