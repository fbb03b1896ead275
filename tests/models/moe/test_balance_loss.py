"""The loss of balance, biases instead of it, and capacities."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.models import moe
from mtfrun.models.moe import Capacity, num_groups
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import ONE_DEVICE

STEPS, WINDOW = 150, 15
BALANCE_LOSS_VOCABULARY = 32
NUM_EXPERTS = 4
# What the first expert's logits are raised by at the start.
SKEW = 2.0


def _rows(seed: int) -> np.ndarray:
    """Returns ids {steps, batch, length} of a Markov chain: something to learn."""
    rng = np.random.default_rng(seed)
    following = rng.integers(1, BALANCE_LOSS_VOCABULARY, [BALANCE_LOSS_VOCABULARY, 3])
    rows = np.zeros([STEPS, 8, 32], np.int32)
    rows[..., 0] = rng.integers(1, BALANCE_LOSS_VOCABULARY, [STEPS, 8])
    for i in range(1, rows.shape[-1]):
        branch = rng.integers(0, 3, [STEPS, 8])
        rows[..., i] = following[rows[..., i - 1], branch]
    return rows


def _busiest_over_mean(seed: int, loss_coef: float, bias_rate: float | None = None) -> np.ndarray:
    """Returns {steps}: the load of the busiest expert over the mean, of the last layer."""
    mesh = mtf.Mesh(ONE_DEVICE)
    gate = moe.Switch() if bias_rate is None else moe.TopK(1, normalise=False)
    layer = functools.partial(
        moe.MoE1D,
        num_experts=NUM_EXPERTS,
        router=functools.partial(moe.Router, gate=gate, bias_rate=bias_rate),
        experts=functools.partial(moe.Experts, hidden_size=32),
        # Room for all, so that the load is what the router asks for.
        capacity=moe.Capacity(training=float(NUM_EXPERTS), group_size=256),
        loss_coef=loss_coef,
    )
    attention = functools.partial(SelfAttention, heads=AttentionHeads(2, d_kv=8))
    stack = functools.partial(Stack, num_layers=1, layers=[attention, layer])
    model = DecoderOnly(
        mesh, BALANCE_LOSS_VOCABULARY, embedding=TokenEmbedding(16, max_length=32), stack=stack
    )
    state = TrainState(model, optim.Adam(learning_rate=3e-3), mesh, seed=seed)
    state.initialize()
    _skew_router(model)
    features = {
        "targets": mtf.import_tf_tensor(mesh, _rows(seed), f"steps:{STEPS};batch:8;length:32")
    }
    steps = mtf.constant(mesh, STEPS, dtype=np.int32)
    record = mtf.to_numpy(train_steps_function(state)(features, steps))
    (load,) = (metric for name, metric in record.metrics.items() if name.endswith("/load"))
    return (load.total / load.weight[:, np.newaxis]).max(axis=1) * NUM_EXPERTS


def _skew_router(model: DecoderOnly) -> None:
    """Points the first expert's vector, and a common part of all tokens, the same way."""
    for path, variable in model.named_variables().items():
        value = mtf.to_numpy(variable)
        if path.endswith("router/kernel"):
            value[:, 0] += SKEW
        elif path == "embedding/table":
            value += 0.5
        mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_busiest_expert_loses_its_lead_and_only_with_the_loss(seed: int) -> None:
    balanced, free = (_busiest_over_mean(seed, loss_coef) for loss_coef in (0.1, 0.0))
    start, end = balanced[:WINDOW].mean(), balanced[-WINDOW:].mean()
    free_end = free[-WINDOW:].mean()
    print(f"seed {seed}: {balanced[0]:.2f}, {start:.2f} -> {end:.2f}; without {free_end:.2f}")
    assert balanced[0] > 0.7 * NUM_EXPERTS
    assert end < start
    assert end < free_end


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_biases_balance_the_load_without_a_loss(seed: int) -> None:
    balanced, free = (_busiest_over_mean(seed, 0.0, rate) for rate in (0.005, None))
    end, free_end = balanced[-WINDOW:].mean(), free[-WINDOW:].mean()
    print(f"seed {seed}: {balanced[0]:.2f} -> {end:.2f}; without {free_end:.2f}")
    assert balanced[0] > 0.7 * NUM_EXPERTS
    assert end < 2.0 < free_end


@pytest.mark.parametrize(
    "tokens, group_size, groups", [(4096, 1024, 4), (18, 8, 2), (20, 8, 2), (21, 8, 3), (5, 8, 1)]
)
def test_groups_are_of_equal_size(tokens: int, group_size: int, groups: int) -> None:
    assert num_groups(tokens, group_size) == groups


def test_slots_differ_by_phase_and_level_and_are_at_most_the_group() -> None:
    capacity = Capacity(training=1.25, evaluation=2.0, second_level=1.0)
    assert capacity.slots("training", 64, 8) == 10
    assert capacity.slots("evaluation", 64, 8) == 16
    assert capacity.slots("second_level", 64, 8) == 8
    assert Capacity(training=8.0).slots("training", 6, 2) == 6
    assert Capacity(min_expert_capacity=4).slots("training", 8, 8) == 4


def test_no_slot_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"training=1\.25 .* leaves no slot.*\.min_expert_cap"):
        Capacity().slots("training", 8, 16)
    for name in ("evaluation", "group_size"):
        with pytest.raises(ValueError, match=rf"Capacity\.{name} is 0: it must be more than 0"):
            Capacity(**{name: 0})
