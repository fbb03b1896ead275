"""Optimizers under layouts: the same updates, and slots with the layout of their variables."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorflow.experimental import dtensor

from mtfrun import mtf, optim
from mtfrun.extras import optimizers
from tests.case_tables import exported, require_a_case_of_each
from tests.layouts import FLOAT32_OP_TOLERANCE, LAYOUTS, ONE_DEVICE, assert_close
from tests.optim.updates import make_variables, run_updates

LAYOUT = "d_model:data;d_ff:model;heads:model"
DIMS = {
    "block/kernel": ["d_model", "d_ff"],
    "block/stacked": ["layers", "d_ff", "d_model"],
    "block/query": ["d_model", "heads", "d_kv"],
    "block/output": ["heads", "d_kv", "d_model"],
    "block/bias": ["d_ff"],
    "block/scale": [],
}
REDUCED = {
    "block/kernel": ["d_model"],
    "block/stacked": ["d_ff"],
    "block/query": ["d_model"],
    "block/output": ["heads", "d_kv"],
}
SIZES = {"d_model": 8, "d_ff": 16, "layers": 3, "heads": 4, "d_kv": 2}
MERGED = ["heads", "d_kv"]
NUM_STEPS = 4

# At least one case for every optimizer that mtfrun.optim exports.
OPTIMIZERS: dict[str, Callable[[], optim.SlotOptimizer]] = {
    "adafactor": optim.Adafactor,
    "adafactor_factored_with_momentum": lambda: optim.Adafactor(
        0.1, beta1=0.9, min_dim_size_to_factor=8, stacked_dim_names=["layers"]
    ),
    "adam": lambda: optim.Adam(
        optim.Product([0.1, optim.LinearWarmup(3)]),
        weight_decay=0.1,
        exclude_from_weight_decay=["bias"],
    ),
    "lion": lambda: optimizers.Lion(0.1, weight_decay=0.1),
    "momentum": lambda: optim.Momentum(0.1, nesterov=True),
    "muon": lambda: optim.Muon(optim.Product([0.1, optim.LinearWarmup(3)]), weight_decay=0.1),
    "schedule_free_adam": lambda: optimizers.ScheduleFreeAdam(
        optim.Product([0.1, optim.LinearWarmup(3)]), weight_decay=0.1
    ),
    "shampoo": lambda: optimizers.Shampoo(
        optim.Product([0.1, optim.LinearWarmup(3)]),
        weight_decay=0.1,
        preconditioning=optimizers.Preconditioning(epsilon=0.01, every_steps=2),
    ),
    "sgd": lambda: optim.Sgd(0.1, learning_rate_factors={"bias": 2.0}),
    "sophia": lambda: optimizers.Sophia(0.1, epsilon=1.0, weight_decay=0.1),
}


def _values(path: str, *leading: int) -> np.ndarray:
    """Returns normal draws that are the same at every call for a path."""
    rng = np.random.default_rng(len(path) + len(leading))
    sizes = [SIZES[name] for name in DIMS[path]]
    return np.asarray(rng.normal(size=[*leading, *sizes]), np.float32)


def _averages(optimizer: optim.SlotOptimizer) -> dict[str, mtf.Variable]:
    return {f"averages/{path}": x for path, x in optimizer.named_averages().items()}


@functools.cache
def _run(
    name: str, mesh_shape: str, layout: str = LAYOUT
) -> tuple[optim.SlotOptimizer, dict[str, np.ndarray]]:
    """Returns the optimizer, and the values after every update and of the last slots."""
    variables = mtf.shard_variables(
        make_variables(
            mtf.Mesh(mesh_shape, layout),
            {path: _values(path) for path in DIMS},
            DIMS,
            MERGED,
            REDUCED,
        )
    )
    optimizer = OPTIMIZERS[name]()
    values = run_updates(optimizer, variables, {path: _values(path, NUM_STEPS) for path in DIMS})
    slots = mtf.to_numpy({**optimizer.named_slots(), **_averages(optimizer)})
    return optimizer, {**values, **slots}


def _is_optimizer(value: Any) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, optim.SlotOptimizer)
        and not inspect.isabstract(value)
    )


def test_every_public_optimizer_has_a_case() -> None:
    with_a_case = {type(make()).__name__ for make in OPTIMIZERS.values()}
    require_a_case_of_each(exported(optim, _is_optimizer), with_a_case, [], "OPTIMIZERS")


@pytest.mark.parametrize(
    ("name", "mesh_shape"), [(name, LAYOUTS[1 + i % 2]) for i, name in enumerate(OPTIMIZERS)]
)
def test_a_layout_changes_no_update(name: str, mesh_shape: str) -> None:
    _, expected = _run(name, ONE_DEVICE)
    optimizer, actual = _run(name, mesh_shape)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        assert_close(actual[path], value, FLOAT32_OP_TOLERANCE)
    slots = {**optimizer.named_slots(), **_averages(optimizer)}
    for path, variable in {**optimizer.variables, **slots}.items():
        # Each dimension is split over the axis of its rule, in slots as in variables.
        layout = dtensor.fetch_layout(variable.variable)
        rules = {"d_model": "data", "d_ff": "model", "heads": "model"}
        axes = [rules.get(dim.name, dtensor.UNSHARDED) for dim in variable.shape]
        shards = dict(zip(("data", "model"), layout.mesh.shape(), strict=True))
        for axis, spec in zip(axes, layout.sharding_specs, strict=True):
            assert spec == axis or shards[axis] == 1, f"{path} is laid out as {layout}"


# Only the axis `model` is taken by rules for dimensions; `data` is free for slots and weights.
ONE_AXIS = "d_ff:model;heads:model"
# One of the default suite for every rule; Adafactor's slots lack dimensions of their variables.
QUICK = [("adafactor_factored_with_momentum", "weights:data"), ("adam", "slots:data")]
SHARDED = [
    pytest.param(name, rule, marks=[] if (name, rule) in QUICK else [pytest.mark.slow])
    for i, name in enumerate(OPTIMIZERS)
    # All rules together for every optimizer, and one of them alone in turn.
    for rule in ("slots:data", "weights:data", "slots:data;weights:model")
    if ";" in rule or rule == ("slots:data", "weights:data")[i % 2] or (name, rule) in QUICK
]


@pytest.mark.parametrize(("name", "rule"), SHARDED)
def test_splitting_slots_and_weights_further_changes_no_update(name: str, rule: str) -> None:
    _, expected = _run(name, ONE_DEVICE)
    optimizer, actual = _run(name, "data:2,model:2", f"{ONE_AXIS};{rule}")
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        assert_close(actual[path], value, FLOAT32_OP_TOLERANCE)
    for path, slot in {**optimizer.named_slots(), **_averages(optimizer)}.items():
        # All but scalars, and those whose dimensions the other axis splits or are not even.
        layout = dtensor.fetch_layout(slot.variable)
        can_be_split = any(
            dim.name not in ("d_ff", "heads") and dim.size % 2 == 0 for dim in slot.shape
        )
        assert ("data" in layout.sharding_specs) == can_be_split, f"{path} is laid out as {layout}"


def test_a_stacked_dimension_is_one_under_its_other_name_too() -> None:
    mesh = mtf.Mesh("data:2,model:2", "slots:data")
    variables = mtf.shard_variables({"stack": mtf.Variable(mesh, "layers:16;d_ff:8;d_model:8")})
    optimizer = optim.Adafactor(min_dim_size_to_factor=8, stacked_dim_names=["layers"])
    optimizer.init(variables)
    assert variables["stack"].shape.to_string == "layers_over_data:16;d_ff:8;d_model:8"
    assert {path: slot.shape.to_string for path, slot in optimizer.named_slots().items()} == {
        "stack/vr": "layers_over_data:16;d_model:8",
        "stack/vc": "layers_over_data:16;d_ff:8",
    }
