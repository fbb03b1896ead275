"""Tests of the maximal update parametrization: what follows from the width of a model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf, optim
from mtfrun.errors import InputError
from mtfrun.extras import optimizers
from mtfrun.models import Model
from mtfrun.training import TrainState, train_steps_function
from tests.experiment.own_classes import Signum
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models import models_of_widths

MESH = mtf.Mesh(ONE_DEVICE)
OPTIMIZERS: Mapping[str, Callable[[], optim.Optimizer]] = {
    "Adafactor": lambda: optim.Adafactor(0.1, min_dim_size_to_factor=16),
    "Adam": lambda: optim.Adam(0.01, weight_decay=0.1),
    "Momentum": lambda: optim.Momentum(0.1, weight_decay=0.1),
}
WIDTH = 32
SIZES = {"d_model": 32, "d_ff": 64, "d_kv": 16}
ADAFACTOR_FIRST = pytest.mark.parametrize(
    "optimizer",
    ["Adafactor", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Adam", "Momentum"))],
)
SHARDED = "batch:data;d_ff:model;vocab:model;weights:data"


@functools.cache
def _trained(
    optimizer: str, growth: int | None, mesh_shape: str = ONE_DEVICE
) -> Mapping[str, np.ndarray]:
    """Returns the variables after two steps, of a model that has grown from its base sizes."""
    mesh = mtf.Mesh(mesh_shape, SHARDED)
    model = models_of_widths.language_model(
        mesh, WIDTH, tied_softmax=True, grows_heads=False, num_layers=1
    )
    if growth is not None:
        optim.set_base_sizes(model, {name: size // growth for name, size in SIZES.items()})
    state = TrainState(model, OPTIMIZERS[optimizer](), mesh)
    state.initialize()
    targets = models_of_widths.ids(mesh)["targets"]
    two_steps = {"targets": mtf.stack([targets, targets], "steps")}
    train_steps_function(state)(two_steps, mtf.constant(mesh, 2, dtype=tf.int32))
    return mtf.to_numpy(model.named_variables())


@pytest.mark.slow
@ADAFACTOR_FIRST
def test_a_model_of_the_base_sizes_stays_as_it_is_to_the_bit(optimizer: str) -> None:
    expected = _trained(optimizer, None)
    actual = _trained(optimizer, 1)
    for path, value in expected.items():
        np.testing.assert_array_equal(actual[path], value, err_msg=path)


@pytest.mark.slow
@ADAFACTOR_FIRST
def test_a_layout_with_sharded_variables_computes_the_same(optimizer: str) -> None:
    expected = _trained(optimizer, 4)
    actual = _trained(optimizer, 4, "data:2,model:2")
    for path, value in expected.items():
        assert_close(actual[path], value, FLOAT32_MODEL_TOLERANCE)


def _variables(base_sizes: Mapping[str, int]) -> dict[str, mtf.Variable]:
    """Returns variables of a model that is 16 times as wide as its base."""
    d_model, d_ff = mtf.Dimension("d_model", 256), mtf.Dimension("d_ff", 512)
    vocab = mtf.Dimension("vocab", 50)
    root = {
        "input": layers.Embedding(MESH, vocab, d_model),
        "hidden": layers.Dense(MESH, [d_model], [d_ff], expert_dims=[mtf.Dimension("expert", 2)]),
        "output": layers.Dense(MESH, [d_ff], [vocab], use_bias=False),
        "filters": layers.Conv2D(
            MESH, d_model, d_model, filter_initializer=mtf.VarianceScaling(2.0, "fan_out")
        ),
    }
    module = mtf.Module()
    module.parts = root
    optim.set_base_sizes(module, base_sizes)
    mtf.initialize(module)
    return {p.removeprefix("parts/"): v for p, v in module.named_variables().items()}


BASE = {"d_model": 16, "d_ff": 32}


# Below the base size as well: the kind depends on the names and not on the sizes.
@pytest.mark.parametrize("base", [16, 1024])
def test_the_initial_scale_is_that_of_the_base_by_the_rule_of_the_kind(base: int) -> None:
    variables = _variables({"d_model": base, "d_ff": 2 * base})
    growth = 256 / base
    stddev = {
        "input/table": 1.0,
        "hidden/kernel": base**-0.5 * growth**-0.5,
        "output/kernel": (2 * base) ** -0.5 / growth,
        # Of 9 * base filters at the base, though the initializer counts the outputs.
        "filters/kernel": math.sqrt(2 / (9 * base)) * growth**-0.5,
    }
    for path, expected in stddev.items():
        assert mtf.to_numpy(variables[path]).std() == pytest.approx(expected, rel=0.05), path
    assert not mtf.to_numpy(variables["hidden/bias"]).any()


@pytest.mark.parametrize(
    ("optimizer", "factors"),
    [
        (optim.Adam(1.0), [1, 1 / 16, 1, 1 / 16, 1 / 16]),
        (optimizers.Lion(1.0), [1, 1 / 16, 1, 1 / 16, 1 / 16]),
        (optimizers.ScheduleFreeAdam(1.0), [1, 1 / 16, 1, 1 / 16, 1 / 16]),
        (optim.Muon(1.0), [1, 1 / 4, 1, 1 / 16, 1 / 4]),
        (optim.Momentum(1.0), [16, 1, 16, 1 / 16, 1]),
        (optim.Adafactor(1.0), [1, 1 / 4, 1, 1, 1 / 4]),
        (optim.Adafactor(1.0, parameter_scale=None), [1, 1 / 16, 1, 1 / 16, 1 / 16]),
    ],
)
def test_the_learning_rate_follows_from_the_kind_and_the_optimizer(
    optimizer: optim.SlotOptimizer, factors: list[float]
) -> None:
    variables = _variables(BASE)
    assert [*variables] == [
        *("input/table", "hidden/kernel", "hidden/bias", "output/kernel", "filters/kernel")
    ]
    optimizer.init(variables)
    assert [optimizer.width_factor(p, v) for p, v in variables.items()] == pytest.approx(factors)


def test_weight_decay_does_not_depend_on_the_width() -> None:
    for optimizer in (optim.Adam(0.1, weight_decay=0.5), optim.Momentum(0.1, weight_decay=0.5)):
        variables = _variables(BASE)
        optimizer.init(variables)
        mtf.initialize(optimizer.named_slots())
        zeros = {path: mtf.zeros_like(variable) for path, variable in variables.items()}
        updates = optimizer.update(zeros, mtf.constant(MESH, 0, dtype=tf.int32))
        for variable in variables.values():
            before = mtf.to_numpy(variable)
            assert_close(mtf.to_numpy(updates[variable]), 0.95 * before)


def test_a_tied_softmax_and_the_logits_of_attention_fall_with_the_width() -> None:
    d_model = mtf.Dimension("d_model", 64)
    heads = layers.AttentionHeads(num_heads=2, d_kv=32, scaled_logits=True)
    module = mtf.Module()
    module.embedding = layers.Embedding(MESH, mtf.Dimension("vocab", 8), d_model)
    module.attention = layers.MultiHeadAttention(MESH, d_model, heads=heads)
    optim.set_base_sizes(module, {"d_model": 16, "d_kv": 8})
    assert module.embedding.logits_scale == 16**-0.5 / 4
    assert module.attention.logits_scale == 8**-0.5 / 4


def _unknown(mesh: mtf.Mesh) -> mtf.Module:
    module = mtf.Module()
    module.kernel = mtf.Variable(mesh, "d_model:8;classes:2", mtf.initializers.RandomNormal())
    return module


@pytest.mark.parametrize(
    ("base_sizes", "message"),
    [
        (
            {"d_modle": 4},
            "base_sizes: no variable has a dimension 'd_modle', did you mean 'd_model'",
        ),
        ({"d_model": 0}, "base_sizes: 'd_model' is 0: it must be an integer of at least 1"),
        ({"d_model": 4}, r"kernel d_model:8;classes:2 grows: .* mtf.Variable\(reduced_dims="),
    ],
)
def test_base_sizes_that_are_not_sizes_are_an_error(
    base_sizes: Mapping[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        optim.set_base_sizes(_unknown(MESH), base_sizes)


def test_an_optimizer_without_a_rule_is_an_error() -> None:
    with pytest.raises(InputError, match="Signum does not say how its learning rate changes"):
        Signum(0.1).init(_variables(BASE))
    Signum(0.1).init(_variables({"d_model": 256, "d_ff": 512}))


def test_a_model_with_values_cannot_get_base_sizes() -> None:
    model: Model = models_of_widths.language_model(MESH, 16)
    mtf.initialize(model)
    with pytest.raises(InputError, match="has a value: set base sizes before"):
        optim.set_base_sizes(model, {"d_model": 8})
