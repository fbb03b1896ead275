"""Training with slots (ZeRO-1) and weights (FSDP) that are split further."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorflow.experimental import dtensor

from mtfrun import mtf, optim
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.extras import optimizers
from mtfrun.models import FiniteCheck, Model
from mtfrun.training import TrainState
from mtfrun.training.norms import Norms
from tests.collectives import collectives_of
from tests.models.small_model import small_model
from tests.training.toy_model import Bigram
from tests.training.toy_run import take_steps

LAYOUT = "batch:data;d_ff:model"
MESH, SQUARE = "data:4,model:2", "data:2,model:2"
# Of the loss: the same numbers are summed, in another order.
TOLERANCE = 1e-6
STEPS = 20

# Sizes of the results, by rule and optimizer and then by kind.
Collectives = dict[str, dict[str, Any]]

OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "adam": lambda: optim.Adam(0.05, weight_decay=0.1, exclude_from_weight_decay=["embedding"]),
    "adafactor": lambda: optim.Adafactor(0.05, beta1=0.9, min_dim_size_to_factor=8),
    "muon": lambda: optim.Muon(0.05, weight_decay=0.1),
    "schedule_free_adam": lambda: optimizers.ScheduleFreeAdam(0.05),
    "momentum": lambda: optim.Momentum(0.05, weight_decay=0.1),
    "sgd": lambda: optim.Sgd(0.05),
}

MODELS: dict[str, Callable[[mtf.Mesh], Model]] = {
    "bigram": Bigram,
    # Adafactor updates its projections of one shape together, and stores factors of {heads, d_kv}.
    "transformer": functools.partial(small_model, tied_softmax=False),
    "tied transformer": small_model,
    "transformer in a loop": functools.partial(small_model, scan_blocks=1),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a small model is trained, besides its layout."""

    optimizer: str = "adam"
    model: str = "bigram"
    mesh_shape: str = MESH
    microbatches: int = 1
    clip_norm: float | None = 0.5
    frozen: tuple[str, ...] = ()
    average_decay: float | None = None


def make_state(setting: Setting, rule: str) -> TrainState:
    """Returns an initialised state under LAYOUT and a further rule, or none."""
    mesh = mtf.Mesh(setting.mesh_shape, f"{LAYOUT};{rule}")
    state = TrainState(
        MODELS[setting.model](mesh),
        OPTIMIZERS[setting.optimizer](),
        mesh,
        seed=3,
        frozen=setting.frozen,
        average_decay=setting.average_decay,
    )
    state.initialize()
    return state


def train(state: TrainState, setting: Setting, steps: int) -> np.ndarray:
    """Returns the losses of all steps; the program computes norms too, as that of a run."""
    norms = Norms(state.trainable, every_steps=1, last_step=steps)
    record = take_steps(
        *(state, steps, 16),
        norms=norms,
        microbatches=setting.microbatches,
        clip_norm=setting.clip_norm,
    )
    loss = record.metrics["loss"]
    return np.asarray(loss.total / loss.weight)


@functools.cache
def _trained(setting: Setting, rule: str) -> tuple[TrainState, np.ndarray]:
    state = make_state(setting, rule)
    return state, train(state, setting, STEPS)


def _device_bytes(variables: dict[str, mtf.Variable]) -> int:
    """Returns the bytes on the first device."""
    parts = [dtensor.unpack(v.variable.read_value())[0] for v in variables.values()]
    return sum(part.numpy().nbytes for part in parts)


ALL = Setting("adafactor", microbatches=2, frozen=("hidden",), average_decay=0.9)
# Of the default suite.
QUICK = dataclasses.replace(ALL, mesh_shape=SQUARE)
SETTINGS = [
    (QUICK, "weights:data", False),
    (Setting(), "slots:data", True),
    (ALL, "weights:data", True),
    (ALL, "slots:data", True),
    (Setting(microbatches=2, mesh_shape="data:8,model:1"), "weights:data", True),
    (Setting("adafactor", "transformer", SQUARE, microbatches=2), "weights:data", True),
    (Setting("adafactor", "transformer in a loop", SQUARE), "slots:data", True),
    (Setting("momentum"), "weights:data;slots:model", True),
    (Setting("muon", "transformer in a loop", SQUARE, microbatches=2), "weights:data", True),
    (Setting("schedule_free_adam", microbatches=2), "slots:data", True),
    (Setting("sgd", clip_norm=None), "weights:data", True),
]


@pytest.mark.parametrize(
    ("setting", "rule"),
    [pytest.param(s, r, marks=[pytest.mark.slow] if slow else []) for s, r, slow in SETTINGS],
)
def test_losses_are_those_of_the_layout_without_the_rule(setting: Setting, rule: str) -> None:
    _, expected = _trained(setting, "")
    state, actual = _trained(setting, rule)
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=TOLERANCE)
    for path in setting.frozen:
        initial = make_state(setting, rule).model.named_variables()[path]
        np.testing.assert_array_equal(
            mtf.to_numpy(state.model.named_variables()[path]), mtf.to_numpy(initial)
        )
    assert FiniteCheck(state.named_variables()).first_non_finite() is None


def test_a_device_stores_its_part_of_slots_and_averages_and_with_fsdp_of_weights() -> None:
    setting = Setting(mesh_shape="data:8,model:1", average_decay=0.9)
    plain, zero1, fsdp = (make_state(setting, rule) for rule in ("", "slots:data", "weights:data"))
    for state, of_weights in ((zero1, 1), (fsdp, 8)):
        for parts, variables, whole in (
            (8, state.optimizer.named_slots(), plain.optimizer.named_slots()),
            (8, state.named_averages(), plain.named_averages()),
            (of_weights, state.model.named_variables(), plain.model.named_variables()),
        ):
            assert _device_bytes(variables) * parts == _device_bytes(whole)


@pytest.mark.slow
def test_a_checkpoint_fits_layouts_with_and_without_the_rules(tmp_path: pathlib.Path) -> None:
    fsdp, _ = _trained(QUICK, "weights:data")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(STEPS, fsdp.storage())
    expected = mtf.to_numpy(fsdp.named_variables())
    for mesh_shape, rule in (("data:1,model:1", ""), (MESH, ""), ("data:2,model:2", "slots:model")):
        state = make_state(dataclasses.replace(QUICK, mesh_shape=mesh_shape), rule)
        checkpoints.restore(STEPS, state.storage())
        restored = mtf.to_numpy(state.named_variables())
        assert restored.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(restored[path], value)


def test_averages_are_exchanged_with_weights_to_the_bit() -> None:
    state, _ = _trained(QUICK, "weights:data")
    before = mtf.to_numpy(state.named_variables())
    with state.swap_averages():
        inside = mtf.to_numpy(state.model.named_variables())
    after = mtf.to_numpy(state.named_variables())
    for path, value in inside.items():
        if path not in QUICK.frozen:
            np.testing.assert_array_equal(value, before[f"averages/{path}"])
        np.testing.assert_array_equal(after[f"model/{path}"], before[f"model/{path}"])


WORKER = "tests.training.sharded_collectives_worker"


@pytest.fixture(scope="module")
def collectives(tmp_path_factory: pytest.TempPathFactory) -> Collectives:
    """Returns the collectives of a step over the axis of the batch, by rule and optimizer."""
    folder = tmp_path_factory.mktemp("programs")
    names = ["adam;", "adam;slots:data", "adam;weights:data", "adafactor;weights:data"]
    found: Collectives = collectives_of(WORKER, folder, [*names, "a loop", "a stack"])
    return found


# Global sizes of embedding, hidden and softmax.
VARIABLES = [[8, 16], [16, 8], [16, 16]]


@pytest.mark.slow
def test_gradients_are_reduced_where_weights_and_slots_are_whole(collectives: Collectives) -> None:
    plain = collectives["adam;"]
    assert plain["reduce-scatter"] == [] and plain["all-gather"] == []
    assert [sizes for sizes in plain["all-reduce"] if sizes] == VARIABLES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam;weights:data", "adam;slots:data"])
def test_gradients_are_reduced_and_scattered_and_weights_are_gathered_once(
    collectives: Collectives, name: str
) -> None:
    sharded = collectives[name]
    assert sharded["reduce-scatter"] == sharded["all-gather"] == VARIABLES
    # Inserted by DTensor itself; a later pass replaces it on CPUs.
    assert sharded["inserted reduce-scatters"] == len(VARIABLES)
    # Besides loss and norm nothing is reduced over the axis.
    assert not any(sharded["all-reduce"])


@pytest.mark.slow
def test_adafactor_gathers_and_reduces_vectors_besides(collectives: Collectives) -> None:
    sharded = collectives["adafactor;weights:data"]
    assert sharded["reduce-scatter"] == VARIABLES
    gathered = collections.Counter(map(tuple, sharded["all-gather"]))
    assert {sizes for sizes in gathered if len(sizes) > 1} == set(map(tuple, VARIABLES))
    assert all(len(sizes) < 2 for sizes in sharded["all-reduce"])


@pytest.mark.slow
def test_variables_that_are_read_once_are_gathered_before_a_loop(collectives: Collectives) -> None:
    assert collectives["a loop"]["all-gather"] == [1]


@pytest.mark.slow
def test_a_loop_over_blocks_gathers_the_weights_of_one_round_at_a_time(
    collectives: Collectives,
) -> None:
    # Four projections of attention and two of the feed-forward layer in each of two rounds, forward
    # and backward; the two embeddings outside.
    assert collectives["a stack"] == {
        "all-gather": [1] * 2 + [2] * 12,
        "reduce-scatter": [1] * 2 + [2] * 6,
    }
