from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig, name_of
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft
from mtfrun.extras.mesh_tensorflow.importer.variable_patterns import VariableNames, translate

_OPTIMIZER, _SCHEDULE = "run.optimizer", "run.learning_rate_schedule"
# Our class and its parameters.
_Optimizer = tuple[str, dict[str, Any]]


def write_optimizer(
    source: SourceConfig, draft: Draft, rate: Reference | None, names: VariableNames
) -> None:
    """Adds the optimizer.

    Args:
      rate: the schedule; None for the optimizer's default.
      names: the original's names of the model's variables by our path.
    """
    name = name_of(source.get(_OPTIMIZER, None))
    if name == "None":
        source.ignore(_OPTIMIZER, "the file is of a program that does not train: Adafactor would")
        name = "AdafactorOptimizer"
    if name not in _OPTIMIZERS:
        source.refuse(_OPTIMIZER, f"{name} is not supported, only {', '.join(_OPTIMIZERS)}")
        name = "AdafactorOptimizer"
    cls, parameters = _OPTIMIZERS[name](source, draft, names)
    draft.bind(cls, {"learning_rate": rate, **parameters})
    draft.bind("experiment.Training", {"optimizer": reference(f"@{cls}()")})


def _adafactor(source: SourceConfig, draft: Draft, names: VariableNames) -> _Optimizer:
    get = source.getter("AdafactorOptimizer")
    minimum = get("min_dim_size_to_factor", 128)
    target = "AdafactorOptimizer.clipping_threshold"
    threshold = source.get_optional(target, 1.0)
    parameters: dict[str, Any] = {
        "beta1": get("beta1", 0.0),
        "epsilon1": get("epsilon1", 1e-30),
        "clipping_threshold": threshold if source.has(target) else 1.0,
        "min_dim_size_to_factor": minimum if get("factored", default=True) else None,
        "stacked_dim_names": source.get_optional("AdafactorOptimizer.stacked_dim_names", []) or [],
    }
    rate = get("decay_rate", None)
    rate = _decay_rate(source, draft) if rate is None else rate
    if rate is not None:
        parameters["decay_rate"] = rate
    target = "AdafactorOptimizer.exclude_from_parameter_scale"
    texts = source.get_optional(target, []) or []
    # The original searches for plain texts, not patterns.
    exclude = translate(source, target, texts, names, is_text=True)
    minimum = get("epsilon2", 1e-3)
    if not get("multiply_by_parameter_scale", default=True):
        parameters["parameter_scale"] = None
    elif exclude or minimum != 1e-3:
        parameters["parameter_scale"] = reference("@optim.ParameterScale()")
        draft.bind("optim.ParameterScale", {"minimum": minimum, "exclude": exclude})
    return "optim.Adafactor", parameters


def _decay_rate(source: SourceConfig, draft: Draft) -> Reference | None:
    exponent = source.get("adafactor_decay_rate_pow.exponent", 0.8)
    offset = source.get("adafactor_decay_rate_pow.offset", 0)
    draft.bind("optim.PowerDecay", {"exponent": exponent})
    if not offset:
        return None if exponent == 0.8 else reference("@optim.PowerDecay()")
    shifted = {"schedule": reference("@optim.PowerDecay()"), "start_step": offset}
    draft.bind("decay_rate/optim.Shifted", shifted)
    return reference("@decay_rate/optim.Shifted()")


def _adam(source: SourceConfig, _: Draft, names: VariableNames) -> _Optimizer:
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
        parameters["exclude_from_weight_decay"] = translate(source, target, exclude, names)
    return "optim.Adam", parameters


_OPTIMIZERS: Mapping[str, Callable[[SourceConfig, Draft, VariableNames], _Optimizer]] = {
    "AdafactorOptimizer": _adafactor,
    "AdamWeightDecayOptimizer": _adam,
    "MomentumOptimizer": lambda source, *_: (
        "optim.Momentum",
        {"momentum": source.get("MomentumOptimizer.momentum", 0.9), "delayed": True},
    ),
    "SgdOptimizer": lambda *_: ("optim.Sgd", {}),
}


def write_schedule(source: SourceConfig, draft: Draft, train_steps: int) -> Reference | None:
    """Returns None for the optimizer's default."""
    total = source.get_optional("run.total_run_steps", 0) or train_steps
    schedule = source.get(_SCHEDULE, None)
    if schedule is None:
        return None
    product = _Product(source, total, train_steps)
    if isinstance(schedule, list):
        product.offset = int(source.get("product_learning_rate.offset", 0))
        product.total_steps = total - product.offset
    for factor in schedule if isinstance(schedule, list) else [schedule]:
        product.add(factor)
    with_warmup = ("optim.TruncatedRsqrt", "optim.LinearWarmup")
    warmups = [product.schedules[cls] for cls in with_warmup if cls in product.schedules]
    if warmups:
        steps = warmups[0]["warmup_steps"]
        draft.macro("WARMUP_STEPS", steps)
        for parameters in warmups:
            if parameters["warmup_steps"] == steps:
                parameters["warmup_steps"] = reference("%WARMUP_STEPS")
    draft.macro("LEARNING_RATE", product.constant)
    for cls, parameters in product.schedules.items():
        draft.bind(cls, parameters)
    names = [reference(f"@{cls}()") for cls in product.schedules]
    draft.bind("optim.Product", {"factors": [reference("%LEARNING_RATE"), *names]})
    if not product.offset:
        return reference("@optim.Product()")
    start = {"schedule": reference("@optim.Product()"), "start_step": product.offset}
    draft.bind("optim.Shifted", start)
    return reference("@optim.Shifted()")


_SCHEDULES = (
    *("constant", "constant_learning_rate", "truncated_rsqrt", "linear_warmup", "linear_decay"),
    *("linear_decay_learning_rate", "learning_rate_schedule_noam", "slanted_triangular"),
)


@dataclasses.dataclass
class _Product:
    """A schedule of `total_steps` from `offset`; `schedules` has parameters by class."""

    source: SourceConfig
    total_steps: int
    train_steps: int
    offset: int = 0
    constant: float = 1.0
    schedules: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def add(self, factor: Any) -> None:
        if isinstance(factor, (int, float)):
            self.constant *= factor
            return
        name = name_of(factor)
        get = self.source.getter(name)
        match name:
            case "constant":
                self.constant *= get("value", 1.0)
            case "constant_learning_rate":
                self.constant *= get("learning_rate", 1.0)
            case "truncated_rsqrt":
                steps = get("warmup_steps", 10_000)
                self.schedules["optim.TruncatedRsqrt"] = {"warmup_steps": steps}
            case "linear_warmup":
                steps = self._steps(get("steps_or_fraction", 10_000))
                self.schedules["optim.LinearWarmup"] = {"warmup_steps": steps}
            case "linear_decay":
                steps = self._steps(get("steps_or_fraction", 0.1))
                if steps > self.total_steps:
                    why = f"longer than the {self.total_steps} steps of the schedule"
                    self.source.refuse("linear_decay.steps_or_fraction", why)
                    steps = self.total_steps
                self._decay(steps / self.total_steps)
            case "linear_decay_learning_rate":
                self.constant *= get("initial_lr", 0.1)
                self._decay((self.total_steps - get("offset", 0)) / self.total_steps)
            case "learning_rate_schedule_noam":
                self.total_steps -= self._shift(f"{name}.offset")
                self.constant *= get("multiplier", 1.0)
                steps = get("warmup_steps", 10_000)
                self.schedules["optim.TruncatedRsqrt"] = {"warmup_steps": steps}
                fraction = get("linear_decay_fraction", 0.1)
                if fraction > 0:
                    self._decay(fraction)
            case "slanted_triangular":
                self._shift("slanted_triangular.start_step")
                self.schedules["zoo.SlantedTriangular"] = {
                    "total_steps": self.total_steps,
                    "cut_fraction": get("cut_fraction", 0.1),
                    "ratio": get("ratio", 32),
                    "maximum": get("max_learning_rate", 0.01),
                    "extrapolate": True,
                }
            case _:
                known = f"only numbers and {', '.join(_SCHEDULES)}"
                self.source.refuse(_SCHEDULE, f"{name} is not supported, {known}")

    def _steps(self, steps_or_fraction: float) -> int:
        is_number = steps_or_fraction > 1 or not self.total_steps  # Tensor2Tensor may have none
        return round(steps_or_fraction * (1 if is_number else self.total_steps))

    def _decay(self, fraction: float) -> None:
        """Adds a linear decay to 0 over the last fraction of the steps."""
        parameters: dict[str, Any] = {"total_steps": self.total_steps}
        if not self.offset and self.total_steps == self.train_steps:
            parameters = {"total_steps": reference("%TRAIN_STEPS")}
        parameters["fraction"] = fraction
        if self.total_steps + self.offset < self.train_steps:
            parameters["extrapolate"] = True
        self.schedules["optim.LinearDecay"] = parameters

    def _shift(self, target: str) -> int:
        """Starts the schedules at the original's offset, and returns it."""
        offset = int(self.source.get(target, 0))
        if offset and self.offset:
            self.source.refuse(target, "the product of schedules has an offset as well")
            return 0
        self.offset = self.offset or offset
        return offset
