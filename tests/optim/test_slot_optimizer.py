"""Tests of what all optimizers share: names and first values of slots, missing gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.extras import optimizers
from tests.layouts import ONE_DEVICE, assert_close

MESH = mtf.Mesh(ONE_DEVICE)
Maker: TypeAlias = Callable[[float | optim.Schedule], optim.SlotOptimizer]
OPTIMIZERS: list[Maker] = [
    *(optim.Sgd, optim.Momentum, optim.Adam, optimizers.Lion, optim.Muon, optim.Adafactor)
]
OF_FLOAT32: list[Maker] = [*OPTIMIZERS, optimizers.ScheduleFreeAdam]


def _initialized(
    make: Maker, dtype: tf.DType = tf.float32, rate: float | optim.Schedule = 0.1
) -> optim.SlotOptimizer:
    variables = {
        "block/kernel": mtf.Variable(MESH, "d_model:4;d_ff:2", dtype=dtype),
        "block/bias": mtf.Variable(MESH, "d_ff:2", dtype=dtype),
    }
    optimizer = make(rate)
    optimizer.init(variables)
    averages = {f"averages/{path}": x for path, x in optimizer.named_averages().items()}
    for path, variable in {**variables, **optimizer.named_slots(), **averages}.items():
        variable.initialize(seed=0, path=path)
    return optimizer


def _ones(dims: str, dtype: type = np.float32) -> mtf.Tensor:
    shape = mtf.convert_to_shape(dims)
    return mtf.import_tf_tensor(MESH, np.ones(shape.to_integer_list, dtype), shape)


STEP = np.int32(0)


@pytest.mark.parametrize("make", OF_FLOAT32)
@pytest.mark.parametrize("missing", [{}, {"block/bias": None}])
def test_a_missing_gradient_is_an_error_that_names_the_variable(
    make: Maker, missing: dict[str, None]
) -> None:
    optimizer = _initialized(make)
    gradients = {"block/kernel": _ones("d_model:4;d_ff:2"), **missing}
    with pytest.raises(optim.MissingGradientError, match="no gradient of block/bias"):
        optimizer.update(gradients, mtf.import_tf_tensor(MESH, STEP, []))


def test_a_gradient_of_an_unknown_variable_is_an_error() -> None:
    optimizer = _initialized(optim.Sgd)
    gradients = {
        "block/kernel": _ones("d_model:4;d_ff:2"),
        "block/bias": _ones("d_ff:2"),
        "block/frozen": _ones("d_ff:2"),
    }
    with pytest.raises(ValueError, match="gradients of block/frozen belong to no variable"):
        optimizer.update(gradients, mtf.import_tf_tensor(MESH, STEP, []))


def test_slots_are_named_after_their_variables() -> None:
    slots = _initialized(optim.Momentum).named_slots()
    assert {path: slot.shape.to_string for path, slot in slots.items()} == {
        "block/kernel/velocity": "d_model:4;d_ff:2",
        "block/bias/velocity": "d_ff:2",
    }
    assert not any(slot.trainable for slot in slots.values())
    for slot in slots.values():
        assert not np.any(mtf.to_numpy(mtf.read_variable(slot)))


@pytest.mark.parametrize("make", OF_FLOAT32)
def test_an_update_gives_a_value_to_every_variable_and_slot(make: Maker) -> None:
    optimizer = _initialized(make)
    gradients = {"block/kernel": _ones("d_model:4;d_ff:2"), "block/bias": _ones("d_ff:2")}
    updates = optimizer.update(gradients, mtf.import_tf_tensor(MESH, STEP, []))
    stored = [*optimizer.named_slots().values(), *optimizer.named_averages().values()]
    assert updates.keys() == {*optimizer.variables.values(), *stored}
    for variable, value in updates.items():
        assert (value.shape, value.dtype) == (variable.shape, tf.float32)
        assert np.any(mtf.to_numpy(value)), f"{variable} did not change"


def test_a_bfloat16_gradient_updates_in_float32() -> None:
    optimizer = _initialized(optim.Sgd)
    bfloat16 = tf.bfloat16.as_numpy_dtype
    gradients = {
        "block/kernel": _ones("d_model:4;d_ff:2", bfloat16),
        "block/bias": _ones("d_ff:2", bfloat16),
    }
    updates = optimizer.update(gradients, mtf.import_tf_tensor(MESH, STEP, []))
    for value in updates.values():
        assert value.dtype == tf.float32
        # 0.1 in bfloat16 has a relative error of 4e-4.
        assert_close(mtf.to_numpy(value), np.full(value.shape.to_integer_list, -0.1))


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_updates_of_bfloat16_variables_are_computed_in_float32(make: Maker) -> None:
    gradients = {"block/kernel": _ones("d_model:4;d_ff:2"), "block/bias": _ones("d_ff:2")}
    step = mtf.import_tf_tensor(MESH, np.int32(3), [])

    def values(dtype: tf.DType) -> dict[str, np.ndarray]:
        optimizer = _initialized(make, dtype, optim.LinearWarmup(10))
        assert {slot.dtype for slot in optimizer.named_slots().values()} <= {tf.float32}
        updates = optimizer.update(gradients, step)
        assert {value.dtype for value in updates.values()} == {tf.float32}
        return {path: mtf.to_numpy(updates[v]) for path, v in optimizer.variables.items()}

    expected = values(tf.float32)
    for path, value in values(tf.bfloat16).items():
        # Only the variable's value before the step may be rounded; here it is 0.
        assert_close(value, expected[path])


@pytest.mark.parametrize("make", OF_FLOAT32)
def test_the_learning_rate_is_readable(make: Maker) -> None:
    optimizer = make(optim.LinearWarmup(10))
    rate = optimizer.learning_rate(mtf.import_tf_tensor(MESH, np.int32(5), []))
    assert rate.shape == mtf.Shape([])
    assert_close(mtf.to_numpy(rate), 0.5)


def test_a_schedule_free_optimizer_refuses_bfloat16() -> None:
    with pytest.raises(InputError, match="block/kernel is bfloat16: set MASTER_DTYPE"):
        _initialized(optimizers.ScheduleFreeAdam, tf.bfloat16)
