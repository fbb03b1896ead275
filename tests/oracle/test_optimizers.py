"""Optimizers against those of Mesh TensorFlow: parameters after every update, final slots."""

from __future__ import annotations

from typing import Any

import pytest

from mtfrun import mtf, optim
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
