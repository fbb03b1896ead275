"""Optimizers and schedules equal the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gin
from mtfrun import mtf, optim
from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft
from mtfrun.extras.mesh_tensorflow.importer.optimizers import write_schedule
from tests.layouts import ONE_DEVICE, assert_close
from tests.optim.updates import make_variables, run_updates
from tests.oracle.reference_cases import reference_cases

CASES = reference_cases("optimizers")

# How the original calls the slots of each variable, by our name.
SLOT_NAMES = {
    "Adafactor": {name: f"{{path}}_slot_{name}" for name in ("vr", "vc", "v", "m")},
    "AdamWeightDecay": {"m": "{path}/adam_m", "v": "{path}/adam_v"},
    "Momentum": {"velocity": "{path}_momentum_v"},
    "Sgd": {},
}


def _adafactor(name: str, hparams: dict[str, Any]) -> optim.Adafactor:
    scale = optim.ParameterScale(
        hparams.get("epsilon2", 1e-3), hparams.get("exclude_from_parameter_scale", ())
    )
    arguments = {
        key: hparams[key]
        for key in (
            "learning_rate",
            "decay_rate",
            "beta1",
            "epsilon1",
            "clipping_threshold",
            "min_dim_size_to_factor",
            "stacked_dim_names",
        )
        if key in hparams
    }
    if not hparams.get("factored", True):
        arguments["min_dim_size_to_factor"] = None
    # Two cases describe a function in words.
    if name == "adafactor_gin_default_noam":
        arguments["learning_rate"] = optim.noam(hparams["total_train_steps"], warmup_steps=4)
    if name == "adafactor_adam_decay":
        arguments["decay_rate"] = optim.AdamDecay(0.99)
    return optim.Adafactor(
        parameter_scale=scale if hparams.get("multiply_by_parameter_scale", True) else None,
        **arguments,
    )


def _adam(hparams: dict[str, Any]) -> optim.Adam:
    return optim.Adam(
        hparams["learning_rate"],
        beta1=hparams.get("beta_1", 0.9),
        beta2=hparams.get("beta_2", 0.999),
        epsilon=hparams.get("epsilon", 1e-6),
        weight_decay=hparams.get("weight_decay_rate", 0.0),
        exclude_from_weight_decay=hparams.get("exclude_from_weight_decay", ()),
        bias_correction=False,
    )


def _optimizer(name: str) -> optim.Optimizer:
    hparams = CASES[name].hparams
    match hparams["optimizer"]:
        case "Adafactor":
            return _adafactor(name, hparams)
        case "AdamWeightDecay":
            return _adam(hparams)
        case "Momentum":
            return optim.Momentum(hparams["learning_rate"], hparams["momentum"])
        case "Sgd":
            return optim.Sgd(hparams["learning_rate"])
    raise AssertionError(f"{name} uses an unknown optimizer")


def test_there_are_17_cases() -> None:
    assert len(CASES) == 17


@pytest.mark.parametrize("name", CASES)
def test_an_optimizer_equals_the_original(name: str) -> None:
    case = CASES[name]
    inputs, expected = case.with_role("in"), case.with_role("out")
    paths = [key.removesuffix("_init") for key in inputs if key.endswith("_init")]
    dims = {path: case.dims[f"in/{path}_init"] for path in paths}
    values = {path: inputs[f"{path}_init"] for path in paths}
    optimizer = _optimizer(name)

    after = run_updates(
        optimizer,
        make_variables(mtf.Mesh(ONE_DEVICE), values, dims),
        {path: inputs[f"{path}_grads"] for path in paths},
    )

    for path in paths:
        if f"{path}_after_last" in expected:
            assert_close(after[path][-1], expected.pop(f"{path}_after_last"))
        else:
            assert_close(after[path], expected.pop(f"{path}_after"))
    names = SLOT_NAMES[case.hparams["optimizer"]]
    for slot_path, slot in optimizer.named_slots().items():
        path, _, slot_name = slot_path.rpartition("/")
        original = "slot/" + names[slot_name].format(path=path)
        assert slot.shape.dimension_names == case.dims[f"out/{original}"]
        assert_close(mtf.to_numpy(mtf.read_variable(slot)), expected.pop(original))
    assert not expected, f"not compared: {list(expected)}"


SCHEDULES_CASES = reference_cases("schedules")


def _sgd(name: str) -> optim.Sgd:
    """Returns an optimizer with the schedule of a case, as the importer writes it."""
    arguments = dict(SCHEDULES_CASES[name].hparams)
    function, total = name.rpartition("_")[0], arguments.pop("total_train_steps")
    source = SourceConfig([])
    schedule: Any = reference(f"@{function}")
    if function == "product":
        function = "product_learning_rate"
        factors = arguments.pop("factors")
        schedule = [reference(f"@{x}") if isinstance(x, str) else x for x in factors]
    source.bind({"run.learning_rate_schedule": schedule, "run.total_run_steps": total})
    source.bind({f"{function}.{parameter}": value for parameter, value in arguments.items()})
    draft = Draft([])
    # Values are compared after the last step as well.
    draft.bind("optim.Sgd", {"learning_rate": write_schedule(source, draft, 1000 * total)})
    gin.clear_config()
    gin.parse_config(draft.text())
    optimizer: optim.Sgd = gin.get_configurable(optim.Sgd)()
    return optimizer


def test_there_are_23_cases() -> None:
    assert len(SCHEDULES_CASES) == 23


@pytest.mark.parametrize("name", SCHEDULES_CASES)
def test_an_imported_schedule_equals_the_original(name: str) -> None:
    arrays, mesh = SCHEDULES_CASES[name].arrays, mtf.Mesh(ONE_DEVICE)
    learning_rate = mtf.function(_sgd(name).learning_rate)
    for step, value in zip(arrays["in/steps"], arrays["out/values"], strict=True):
        rate = mtf.to_numpy(learning_rate(mtf.import_tf_tensor(mesh, np.int32(step), [])))
        assert rate.dtype == np.float32
        assert_close(rate, value)
