"""What saves memory changes no gradient: rematerialisation, losses in blocks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf, optim
from mtfrun.errors import InputError
from mtfrun.models.transformer import TokenLoss
from mtfrun.models.transformer.tokens import token_softmax
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.options import StepOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, LAYOUTS, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    Step,
    assert_same_step,
    on_mesh,
    packed_rows,
    small_model,
    training_step,
)

ALL = ("attention", "dense", "projections")
# What is computed again, and the block length of attention.
CASES = [
    ((), None),
    (("dense", "projections"), 4),
    (("attention", "projections"), None),
    (("attention", "dense"), 4),
]


@functools.cache
def _stored(mesh_shape: str, block_length: int | None) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, dropout_rate=0.2, block_length=block_length)
    return training_step(model, mesh, packed_rows())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "block_length", "mesh_shape"),
    [(*case, LAYOUTS[1 + i % 2]) for i, case in enumerate(CASES)],
)
def test_what_is_stored_changes_no_gradient(
    names: Sequence[str], block_length: int | None, mesh_shape: str
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, dropout_rate=0.2, block_length=block_length, rematerialise=names)
    actual = training_step(model, mesh, packed_rows())
    assert_same_step(actual, _stored(ONE_DEVICE, block_length))


def _operations(kind: str, names: Sequence[str], block_length: int | None = None) -> int:
    """Returns how many operations a step of a block runs, those that nothing needs left out."""
    mesh = mtf.Mesh()
    model = small_model(mesh, num_layers=1, block_length=block_length, rematerialise=names)
    features = on_mesh(mesh, packed_rows())
    variables = model.named_variables()

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step() -> list[tf.Tensor]:
        def total() -> mtf.Tensor:
            return model.loss(features, training=True).total

        _, gradients = mtf.value_and_gradients(total, variables)
        return [gradient.value for gradient in gradients.values() if gradient is not None]

    graph = step.get_concrete_function().graph
    needed: set[str] = set()
    waiting = list(graph.outputs)
    while waiting:
        x = waiting.pop()
        # A custom gradient has its inputs among its outputs; Grappler splits the operation.
        inputs = [x.op.inputs[x.value_index]] if x.op.type == "IdentityN" else x.op.inputs
        waiting += [] if x.op.name in needed and x.op.type != "IdentityN" else inputs
        needed.add(x.op.name)
    return sum(op.type in kind.split() for op in graph.get_operations() if op.name in needed)


def test_products_that_are_stored_are_not_computed_again() -> None:
    products = functools.partial(_operations, "MatMul BatchMatMulV2 Einsum")
    all_again = products(ALL)
    # The last product of a block is not needed.
    assert all_again - products(["attention", "projections"]) == 1
    assert all_again - products(["attention", "dense"]) == 4
    # The weights are needed, but not the mean of the values.
    assert all_again - products(["dense"]) == 5


@pytest.mark.slow
def test_attention_in_blocks_that_is_stored_has_no_second_loop() -> None:
    loops = functools.partial(_operations, "While StatelessWhile", block_length=4)
    assert loops(ALL) - loops(["dense", "projections"]) == 1


def test_a_value_is_replaced_by_the_stored_one() -> None:
    mesh = mtf.Mesh()
    x = mtf.import_tf_tensor(mesh, np.array([1.0, 2.0], np.float32), "n:2")

    def cube(x: mtf.Tensor) -> mtf.Tensor:
        return mtf.keep(x * x, "square") * x

    def gradients(x: mtf.Tensor, names: Sequence[str] | None) -> list[mtf.Tensor | None]:
        y = mtf.recompute_grad(cube, [x], names)
        return mtf.gradients([mtf.reduce_sum(y)], [x])

    for names in (None, (), ("square",)):
        (gradient,) = mtf.function(functools.partial(gradients, names=names))(x)
        np.testing.assert_array_equal(mtf.to_numpy(gradient), [3.0, 12.0])
    with pytest.raises(InputError, match="is called 'sqare': there are square"):
        mtf.recompute_grad(cube, [x], ["sqare"])


LOSSES = {"plain": TokenLoss(), "regularised": TokenLoss(label_smoothing=0.1, z_loss=0.01)}
LOSS_IN_BLOCKS_CASES = [
    pytest.param(*case, marks=[] if case == ("regularised", True, ONE_DEVICE) else pytest.mark.slow)
    for case in itertools.product(LOSSES, [True, False], LAYOUTS)
    # All meshes where most is computed.
    if case[:2] == ("regularised", True) or case[2] == LAYOUTS[-1]
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


@pytest.mark.parametrize("loss, tied_softmax, mesh_shape", LOSS_IN_BLOCKS_CASES)
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
    record = mtf.to_numpy(train_steps_function(state, StepOptions(microbatches=2))(features, one))
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


@pytest.mark.slow
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
