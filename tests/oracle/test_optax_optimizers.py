"""Optimizers against those of optax: parameters after each of ten updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.extras import optimizers
from tests.layouts import ONE_DEVICE, assert_close
from tests.optim.updates import make_variables, run_updates
from tests.oracle.reference_cases import ReferenceCase, reference_cases

CASES = reference_cases("optax_optimizers")
OPTIMIZERS: dict[str, Callable[..., optim.SlotOptimizer]] = {
    "lion": optimizers.Lion,
    "muon": optim.Muon,
    "schedule_free_adam": optimizers.ScheduleFreeAdam,
}
# Over which products sum, of Muon's matrices.
REDUCED = {
    "wide": ["d_model"],
    "tall": ["d_ff"],
    "query": ["d_model"],
    "output": ["heads", "d_kv"],
    "experts": ["d_model"],
}


def _make(name: str) -> optim.SlotOptimizer:
    (prefix,) = (prefix for prefix in OPTIMIZERS if name.startswith(prefix))
    hparams: dict[str, Any] = dict(CASES[name].hparams)
    if hparams["learning_rate"] == "warmup":
        hparams["learning_rate"] = optim.Product([0.05, optim.LinearWarmup(4)])
    return OPTIMIZERS[prefix](**hparams)


def _updated(case: ReferenceCase, optimizer: optim.Optimizer) -> dict[str, np.ndarray]:
    inputs = case.with_role("in")
    values = {k.removesuffix("_init"): x for k, x in inputs.items() if k.endswith("_init")}
    dims = {path: case.dims[f"in/{path}_init"] for path in values}
    variables = make_variables(mtf.Mesh(ONE_DEVICE), values, dims, ["heads", "d_kv"], REDUCED)
    return run_updates(optimizer, variables, {path: inputs[f"{path}_grads"] for path in values})


@pytest.mark.parametrize("name", CASES)
def test_the_first_ten_updates_are_those_of_optax(name: str) -> None:
    expected = CASES[name].with_role("out")
    optimizer = _make(name)
    after = _updated(CASES[name], optimizer)
    assert next(iter(after.values())).shape[0] == 10
    for path, values in after.items():
        assert_close(values, expected[f"{path}_after"])
    for path, average in optimizer.named_averages().items():
        assert_close(mtf.to_numpy(average), expected[f"{path}_average"][-1])
