"""Optimizers and schedules equal the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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


SCHEDULES_CASES = reference_cases("schedules")


def _warmup(total: int, steps_or_fraction: float = 10_000) -> optim.Schedule:
    steps = steps_or_fraction if steps_or_fraction > 1 else round(steps_or_fraction * total)
    return optim.LinearWarmup(int(steps))


def _decay(total: int, steps_or_fraction: float = 0.1) -> optim.Schedule:
    fraction = steps_or_fraction if steps_or_fraction <= 1 else steps_or_fraction / total
    return optim.LinearDecay(total, fraction, extrapolate=True)


def _noam(
    total: int,
    warmup_steps: int = 10_000,
    linear_decay_fraction: float = 0.1,
    multiplier: float = 1.0,
    offset: int = 0,
) -> optim.Schedule:
    rsqrt = optim.TruncatedRsqrt(warmup_steps)
    if not linear_decay_fraction:
        return optim.Product([multiplier, rsqrt])
    decay = _decay(total - offset, linear_decay_fraction)
    return optim.Shifted(optim.Product([multiplier, rsqrt, decay]), offset)


def _linear_decay_rate(total: int, initial_lr: float = 0.1, offset: int = 0) -> optim.Schedule:
    return optim.Product([initial_lr, optim.Shifted(_decay(total - offset, 1.0), offset)])


def _slanted(
    total: int,
    cut_fraction: float = 0.1,
    ratio: float = 32,
    max_learning_rate: float = 0.01,
    start_step: int = 0,
) -> optim.Schedule:
    triangle = optim.SlantedTriangular(
        total, cut_fraction, ratio, max_learning_rate, extrapolate=True
    )
    return optim.Shifted(triangle, start_step)


def _product(total: int, factors: list[Any], offset: int) -> optim.Schedule:
    named = {
        "truncated_rsqrt": optim.TruncatedRsqrt(),
        "linear_decay": _decay(total - offset),
        "linear_warmup": _warmup(total - offset),
    }
    return optim.Shifted(optim.Product([named.get(f, f) for f in factors]), offset)


# The same schedule here, by the original's name.
TRANSLATIONS: dict[str, Callable[..., optim.Schedule]] = {
    "constant": lambda total, value=1.0: optim.Constant(value),
    "constant_learning_rate": lambda total, learning_rate: optim.Constant(learning_rate),
    "linear_decay": _decay,
    "linear_warmup": _warmup,
    "truncated_rsqrt": lambda total, warmup_steps=10_000: optim.TruncatedRsqrt(warmup_steps),
    "learning_rate_schedule_noam": _noam,
    "linear_decay_learning_rate": _linear_decay_rate,
    "slanted_triangular": _slanted,
    "product": _product,
}


def _schedule(name: str) -> optim.Schedule:
    arguments = dict(SCHEDULES_CASES[name].hparams)
    return TRANSLATIONS[name.rpartition("_")[0]](arguments.pop("total_train_steps"), **arguments)


def test_there_are_23_cases() -> None:
    assert len(SCHEDULES_CASES) == 23


@pytest.mark.parametrize("name", SCHEDULES_CASES)
def test_a_schedule_equals_the_original_in_python(name: str) -> None:
    schedule = _schedule(name)
    for step, value in zip(
        SCHEDULES_CASES[name].arrays["in/steps"],
        SCHEDULES_CASES[name].arrays["out/values"],
        strict=True,
    ):
        rate = schedule(int(step))
        assert isinstance(rate, int | float)
        assert_close(rate, value)


@pytest.mark.parametrize("name", SCHEDULES_CASES)
def test_a_schedule_equals_the_original_in_a_training_step(name: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    learning_rate = mtf.function(optim.Sgd(_schedule(name)).learning_rate)
    for step, value in zip(
        SCHEDULES_CASES[name].arrays["in/steps"],
        SCHEDULES_CASES[name].arrays["out/values"],
        strict=True,
    ):
        rate = mtf.to_numpy(learning_rate(mtf.import_tf_tensor(mesh, np.int32(step), [])))
        assert rate.dtype == np.float32
        assert_close(rate, value)
