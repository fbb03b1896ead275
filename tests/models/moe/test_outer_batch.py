"""A batch that is split over two mesh axes, as {outer_batch, batch}."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.data import split_batch
from mtfrun.models import moe
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    SelfAttention,
    Stack,
    Sublayer,
    TokenEmbedding,
)
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import VOCABULARY, packed_rows

LAYOUT = "batch:data;expert_x:data;experts:data;outer_batch:model;expert_y:model"
EXPERTS = functools.partial(moe.Experts, hidden_size=8)
MIXTURES = {
    "one level": functools.partial(
        moe.MoE1D, num_experts=4, experts=EXPERTS, capacity=moe.Capacity(group_size=12)
    ),
    "two levels": functools.partial(
        moe.MoE2D, num_experts=(2, 2), experts=EXPERTS, capacity=moe.Capacity(group_size=12)
    ),
}


@functools.cache
def _two_steps(
    mixture: str, mesh_shape: str, outer_batch: int, microbatches: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the totals of two steps' metrics, and the variables afterwards."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    attention = functools.partial(SelfAttention, heads=AttentionHeads(2, d_kv=4), dropout_rate=0.1)
    layers: list[Callable[..., Sublayer]] = [attention, MIXTURES[mixture]]
    stack = functools.partial(Stack, num_layers=1, layers=layers)
    model = DecoderOnly(mesh, VOCABULARY, embedding=TokenEmbedding(8, max_length=16), stack=stack)
    state = TrainState(model, optim.Sgd(learning_rate=0.1), mesh, seed=1)
    state.initialize()
    shape = mtf.Shape(["batch:8", "length:12"])
    if outer_batch > 1:
        shape = split_batch(shape, outer_batch)
    steps = mtf.Shape(["steps:2"]) + shape
    features = {
        name: mtf.import_tf_tensor(mesh, np.stack([x] * 2).reshape(steps.to_integer_list), steps)
        for name, x in packed_rows().items()
    }
    train = train_steps_function(state, microbatches=microbatches)
    record = mtf.to_numpy(train(features, mtf.constant(mesh, 2, dtype=np.int32)))
    variables = {path: mtf.to_numpy(v) for path, v in model.named_variables().items()}
    totals = {name: metric.total for name, metric in record.metrics.items()}
    return {**totals, "norm": record.gradient_norm}, variables


@pytest.mark.slow
@pytest.mark.parametrize(
    "mixture, mesh_shape, microbatches",
    [
        ("two levels", "data:2,model:2", 1),
        pytest.param("two levels", ONE_DEVICE, 2, marks=pytest.mark.slow),
        pytest.param("one level", "data:2,model:2", 1, marks=pytest.mark.slow),
        pytest.param("two levels", "data:2,model:2", 2, marks=pytest.mark.slow),
    ],
)
def test_an_outer_batch_changes_nothing(mixture: str, mesh_shape: str, microbatches: int) -> None:
    expected = _two_steps(mixture, ONE_DEVICE, 1, microbatches)
    actual = _two_steps(mixture, mesh_shape, 2, microbatches)
    for values, expected_values in zip(actual, expected, strict=True):
        assert values.keys() == expected_values.keys()
        for name, value in expected_values.items():
            assert_close(values[name], value, FLOAT32_MODEL_TOLERANCE)
