"""Identities of mixtures of experts, for random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import moe
from mtfrun.models.transformer import Sublayer
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import (
    BATCH,
    D_MODEL,
    LENGTH,
    Result,
    inputs,
    one_level,
    padding_mask,
    run,
    two_levels,
)

HIDDEN = 10
A_SLOT_FOR_ALL = moe.Capacity(training=8.0, evaluation=8.0, second_level=8.0, group_size=12)
RNG = np.random.default_rng(11)


def _weights(*experts: int) -> dict[str, np.ndarray]:
    """Returns weights of experts by variable path."""
    return {
        "experts/wi/factors/0/kernel": RNG.normal(size=[*experts, D_MODEL.size, HIDDEN]),
        "experts/wo/kernel": RNG.normal(size=[*experts, HIDDEN, D_MODEL.size]),
    }


def _float32(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {path: value.astype(np.float32) for path, value in values.items()}


def _run(
    make: Callable[[mtf.Mesh], Sublayer], values: dict[str, np.ndarray], **options: Any
) -> Result:
    return run(make, mtf.Mesh(ONE_DEVICE), values=_float32(values), **options)


def test_one_expert_with_room_for_all_is_a_dense_layer() -> None:
    weights = _weights(1)
    result = _run(
        lambda mesh: one_level(mesh, num_experts=1, capacity=A_SLOT_FOR_ALL),
        {**weights, "router/kernel": RNG.normal(size=[D_MODEL.size, 1])},
    )
    hidden = np.maximum(inputs() @ weights["experts/wi/factors/0/kernel"][0], 0.0)
    assert_close(result.output, hidden @ weights["experts/wo/kernel"][0], FLOAT32_MODEL_TOLERANCE)
    assert_close(result.loss, np.float32(0.01), FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_two_levels_with_one_expert_x_are_one_level_and_a_constant_loss() -> None:
    weights = _weights(4)
    router = RNG.normal(size=[D_MODEL.size, 4])
    # Equal capacities: the first level passes on a group as it is, the second has the slots of one
    # level.
    capacity = moe.Capacity(training=1.25, second_level=1.25, group_size=12)
    flat = _run(
        lambda mesh: one_level(mesh, capacity=capacity), {**weights, "router/kernel": router}
    )
    nested = _run(
        lambda mesh: two_levels(mesh, num_experts=(1, 4), capacity=capacity),
        {
            **{path: value[:, np.newaxis] for path, value in weights.items()},
            "outer_router/kernel": RNG.normal(size=[D_MODEL.size, 1]),
            "inner_router/kernel": router[np.newaxis],
        },
    )
    assert_close(nested.output, flat.output, FLOAT32_MODEL_TOLERANCE)
    assert flat.metrics["/level_1/dropped"] > 0.0
    # The balance loss of one expert_x is 1, with the coefficient 0.01.
    assert_close(nested.loss, flat.loss + np.float32(0.01), FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_a_permutation_of_the_experts_changes_nothing(training: bool) -> None:
    weights = _weights(4)
    router = RNG.normal(size=[D_MODEL.size, 4])
    order = [2, 0, 3, 1]
    first = _run(one_level, {**weights, "router/kernel": router}, training=training)
    second = _run(
        one_level,
        {
            **{path: value[order] for path, value in weights.items()},
            "router/kernel": router[:, order],
        },
        training=training,
    )
    assert_close(second.output, first.output, FLOAT32_MODEL_TOLERANCE)
    assert_close(second.loss, first.loss, FLOAT32_MODEL_TOLERANCE)
    assert_close(second.gradients["x"], first.gradients["x"], FLOAT32_MODEL_TOLERANCE)
    loads = [result.metrics["/level_1/load"] for result in (first, second)]
    assert_close(loads[1], loads[0][order])


def test_a_token_that_is_dropped_gives_exactly_zero() -> None:
    # All tokens are alike and choose expert 0, which has slots for the first three of each group.
    x = np.ones([BATCH.size, LENGTH.size, D_MODEL.size], np.float32)
    router = np.zeros([D_MODEL.size, 4])
    router[:, 0] = 5.0
    result = _run(
        lambda mesh: one_level(
            mesh, gate=moe.Switch(), capacity=moe.Capacity(training=1.0, group_size=12)
        ),
        {**_weights(4), "router/kernel": router},
        x=x,
    )
    assert np.all(result.output[:, 3:] == 0.0)
    assert np.all(np.abs(result.output[:, :3]).max(axis=-1) > 0.0)
    assert np.all(result.gradients["x"][:, 3:].std(axis=(0, 1)) < 1e-6)
    assert result.metrics["/level_1/dropped"] == 9 * BATCH.size
    assert_close(result.metrics["/experts_per_token"], np.asarray([72, 24, 0, 0, 0], np.float32))


@pytest.mark.parametrize("make", [one_level, two_levels])
def test_padding_is_sent_to_no_expert_and_takes_no_slot(
    make: Callable[[mtf.Mesh], Sublayer],
) -> None:
    result = run(make, mtf.Mesh(ONE_DEVICE), with_padding=True)
    padding = padding_mask() == 0.0
    assert np.all(result.output[padding] == 0.0)
    assert result.metrics["/experts_per_token"].sum() == (~padding).sum()
    changed = inputs()
    changed[padding] = 9.0
    with_other_padding = run(make, mtf.Mesh(ONE_DEVICE), with_padding=True, x=changed)
    np.testing.assert_array_equal(with_other_padding.output, result.output)


@pytest.mark.slow
def test_a_token_has_three_experts_of_two_levels_at_most() -> None:
    all_second = moe.Top2(second_policy_training=moe.All())
    result = run(
        lambda mesh: two_levels(mesh, gate=all_second, capacity=A_SLOT_FOR_ALL),
        mtf.Mesh(ONE_DEVICE),
    )
    assert_close(result.metrics["/experts_per_token"], np.asarray([0, 0, 0, 96, 0], np.float32))


@pytest.mark.parametrize("option", [{"num_experts": (4,)}, {"routers": (moe.Router,)}])
def test_two_levels_want_two_of_everything(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"MoE2D.{next(iter(option))}=.* must be two, one for"):
        two_levels(mtf.Mesh(ONE_DEVICE), **option)


def test_truncated_top_2_makes_no_choice_of_a_negative_gate() -> None:
    # Token 0 has taken one of the two slots of expert 1; tokens 7 to 11 come after the position at
    # which its other one will be taken, at this rate, and want expert 0.
    mesh = mtf.Mesh(ONE_DEVICE)
    sizes = {"group": 12, "experts": 2, "capacity": 2}
    group, experts, capacity = (mtf.Dimension(*item) for item in sizes.items())
    probabilities = np.tile(np.asarray([0.7, 0.3], np.float32), [12, 1])
    probabilities[0] = [0.3, 0.7]
    gates = mtf.import_tf_tensor(mesh, probabilities, [group, experts])
    present = mtf.import_tf_tensor(mesh, np.asarray([1] + [0] * 6 + [1] * 5, np.float32), [group])
    largest = {}
    for allow_negative in (False, True):
        context = moe.GateContext(group, experts, capacity, present)
        choices = zoo.truncated_top_2(gates, context, allow_negative=allow_negative)
        weights = np.stack([mtf.to_numpy(choice.gate) for choice in choices])
        largest[allow_negative] = np.abs(weights).max()
        assert allow_negative or weights.min() == 0.0
    assert largest[True] > 1e3
    assert_close(largest[False], np.float32(1.0))
