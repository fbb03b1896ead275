from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.tools.conversion.mesh_tensorflow.config import SourceConfig, name_of
from mtfrun.tools.conversion.mesh_tensorflow.gin import Draft
from mtfrun.tools.conversion.mesh_tensorflow.variable_patterns import VariablePatterns

_TARGET = "run.optimizer"


def write_optimizer(
    source: SourceConfig, draft: Draft, rate: Reference | None, patterns: VariablePatterns
) -> None:
    """`rate` None stands for the optimizer's default."""
    name = name_of(source.get(_TARGET, None))
    if name == "None":
        source.ignore(_TARGET, "the file is of a program that does not train: Adafactor would")
        name = "AdafactorOptimizer"
    if name not in _OPTIMIZERS:
        source.refuse(_TARGET, f"{name} is not supported, only {', '.join(_OPTIMIZERS)}")
        name = "AdafactorOptimizer"
    cls, parameters = _OPTIMIZERS[name](source, draft, patterns)
    draft.bind(cls, {"learning_rate": rate, **parameters})
    draft.bind("experiment.Training", {"optimizer": reference(f"@{cls}()")})


def _adafactor(
    source: SourceConfig, draft: Draft, patterns: VariablePatterns
) -> tuple[str, dict[str, Any]]:
    get = source.getter("AdafactorOptimizer")

    minimum = get("min_dim_size_to_factor", 128)
    parameters: dict[str, Any] = {
        "decay_rate": get("decay_rate", None),
        "beta1": get("beta1", 0.0),
        "epsilon1": get("epsilon1", 1e-30),
        "clipping_threshold": _clipping_threshold(source),
        "min_dim_size_to_factor": minimum if get("factored", default=True) else None,
        "stacked_dim_names": source.get_optional("AdafactorOptimizer.stacked_dim_names", []) or [],
    }
    if parameters["decay_rate"] is None:
        parameters["decay_rate"] = _decay_rate(source, draft)
    target = "AdafactorOptimizer.exclude_from_parameter_scale"
    # The original looks for the texts themselves, not for patterns.
    exclude = patterns.translated(
        source, target, source.get_optional(target, []) or [], is_text=True
    )
    scale = {"minimum": get("epsilon2", 1e-3), "exclude": exclude}
    parameters["parameter_scale"] = None
    if get("multiply_by_parameter_scale", default=True):
        parameters["parameter_scale"] = reference("@optim.ParameterScale()")
        draft.bind("optim.ParameterScale", _without(scale, {"minimum": 1e-3, "exclude": []}))
    if parameters["parameter_scale"] and not draft.has("optim.ParameterScale"):
        del parameters["parameter_scale"]
    defaults: dict[str, Any] = {
        "decay_rate": None,
        "beta1": 0.0,
        "epsilon1": 1e-30,
        "clipping_threshold": 1.0,
        "min_dim_size_to_factor": 128,
        "stacked_dim_names": [],
    }
    return "optim.Adafactor", _without(parameters, defaults)


def _clipping_threshold(source: SourceConfig) -> float | None:
    target = "AdafactorOptimizer.clipping_threshold"
    threshold: float | None = source.get_optional(target, 1.0)
    return threshold if source.has(target) else 1.0


def _decay_rate(source: SourceConfig, draft: Draft) -> Reference | None:
    exponent = source.get("adafactor_decay_rate_pow.exponent", 0.8)
    offset = source.get("adafactor_decay_rate_pow.offset", 0)
    if exponent != 0.8:
        draft.bind("optim.PowerDecay", {"exponent": exponent})
    if not offset:
        return None if exponent == 0.8 else reference("@optim.PowerDecay()")
    shifted = {"schedule": reference("@optim.PowerDecay()"), "start_step": offset}
    draft.bind("decay_rate/optim.Shifted", shifted)
    return reference("@decay_rate/optim.Shifted()")


def _adam(source: SourceConfig, _: Draft, patterns: VariablePatterns) -> tuple[str, dict[str, Any]]:
    get = source.getter("AdamWeightDecayOptimizer")

    target = "AdamWeightDecayOptimizer.exclude_from_weight_decay"
    exclude = source.get_optional(target, []) or []
    parameters: dict[str, Any] = {
        "beta1": get("beta_1", 0.9),
        "beta2": get("beta_2", 0.999),
        "epsilon": get("epsilon", 1e-6),
        "weight_decay": get("weight_decay_rate", 0.0),
        "bias_correction": False,
    }
    if parameters["weight_decay"]:
        parameters["exclude_from_weight_decay"] = patterns.translated(source, target, exclude)
    defaults = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "exclude_from_weight_decay": []}
    return "optim.Adam", _without(parameters, defaults)


def _momentum(source: SourceConfig, *_: object) -> tuple[str, dict[str, Any]]:
    momentum = source.get("MomentumOptimizer.momentum", 0.9)
    return "optim.Momentum", {"momentum": momentum, "delayed": True}


def _sgd(*_: object) -> tuple[str, dict[str, Any]]:
    return "optim.Sgd", {}


def _without(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in parameters.items()
        if name not in defaults or value != defaults[name]
    }


_OPTIMIZERS: Mapping[
    str, Callable[[SourceConfig, Draft, VariablePatterns], tuple[str, dict[str, Any]]]
] = {
    "AdafactorOptimizer": _adafactor,
    "AdamWeightDecayOptimizer": _adam,
    "MomentumOptimizer": _momentum,
    "SgdOptimizer": _sgd,
}
