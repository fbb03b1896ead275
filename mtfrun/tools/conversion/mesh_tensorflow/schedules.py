from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.tools.conversion.mesh_tensorflow.config import SourceConfig, name_of
from mtfrun.tools.conversion.mesh_tensorflow.gin import Draft

_TARGET = "run.learning_rate_schedule"


@dataclasses.dataclass
class _Factors:
    """`total_steps` of the schedule start at `offset`; `schedules` are by class."""

    total_steps: int
    train_steps: int
    offset: int = 0
    constant: float = 1.0
    schedules: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def decay(self, fraction: float) -> None:
        """Adds a line to 0 over the last fraction of the steps."""
        parameters: dict[str, Any] = {"total_steps": self.total_steps}
        if not self.offset and self.total_steps == self.train_steps:
            parameters = {"total_steps": reference("%TRAIN_STEPS")}
        parameters["fraction"] = fraction
        if self.total_steps + self.offset < self.train_steps:
            parameters["extrapolate"] = True
        self.schedules["optim.LinearDecay"] = parameters


def write_schedule(source: SourceConfig, draft: Draft, train_steps: int) -> Reference | None:
    """Returns None for the optimizer's default."""
    total = source.get_optional("run.total_run_steps", 0) or train_steps
    schedule = source.get(_TARGET, None)
    if schedule is None:
        return None
    factors = _Factors(total, train_steps)
    if isinstance(schedule, list):
        factors.offset = int(source.get("product_learning_rate.offset", 0))
        factors.total_steps = total - factors.offset
    for factor in schedule if isinstance(schedule, list) else [schedule]:
        _add(source, factors, factor)
    if "optim.TruncatedRsqrt" in factors.schedules:
        draft.macro("WARMUP_STEPS", factors.schedules["optim.TruncatedRsqrt"]["warmup_steps"])
        factors.schedules["optim.TruncatedRsqrt"]["warmup_steps"] = reference("%WARMUP_STEPS")
    elif "optim.LinearWarmup" in factors.schedules:
        draft.macro("WARMUP_STEPS", factors.schedules["optim.LinearWarmup"]["warmup_steps"])
        factors.schedules["optim.LinearWarmup"]["warmup_steps"] = reference("%WARMUP_STEPS")
    draft.macro("LEARNING_RATE", factors.constant)
    for cls, parameters in factors.schedules.items():
        draft.bind(cls, parameters)
    names = [reference(f"@{cls}()") for cls in factors.schedules]
    draft.bind("optim.Product", {"factors": [reference("%LEARNING_RATE"), *names]})
    if not factors.offset:
        return reference("@optim.Product()")
    start = {"schedule": reference("@optim.Product()"), "start_step": factors.offset}
    draft.bind("optim.Shifted", start)
    return reference("@optim.Shifted()")


def _add(source: SourceConfig, factors: _Factors, factor: Any) -> None:
    if isinstance(factor, (int, float)):
        factors.constant *= factor
        return
    name = name_of(factor)
    if name not in _SCHEDULES:
        source.refuse(_TARGET, f"{name} is not supported, only numbers and {', '.join(_SCHEDULES)}")
        return
    _SCHEDULES[name](source, factors)


def _constant(source: SourceConfig, factors: _Factors) -> None:
    factors.constant *= source.get("constant.value", 1.0)


def _constant_learning_rate(source: SourceConfig, factors: _Factors) -> None:
    factors.constant *= source.get("constant_learning_rate.learning_rate", 1.0)


def _truncated_rsqrt(source: SourceConfig, factors: _Factors) -> None:
    steps = source.get("truncated_rsqrt.warmup_steps", 10_000)
    factors.schedules["optim.TruncatedRsqrt"] = {"warmup_steps": steps}


def _steps(source: SourceConfig, factors: _Factors, target: str, default: float) -> float:
    """The original may have a fraction of all steps."""
    steps: float = source.get(target, default)
    return steps if steps > 1 else steps * factors.total_steps


def _linear_warmup(source: SourceConfig, factors: _Factors) -> None:
    steps = _steps(source, factors, "linear_warmup.steps_or_fraction", 10_000)
    factors.schedules["optim.LinearWarmup"] = {"warmup_steps": steps}


def _linear_decay(source: SourceConfig, factors: _Factors) -> None:
    steps = _steps(source, factors, "linear_decay.steps_or_fraction", 0.1)
    if steps > factors.total_steps:
        why = f"longer than the {factors.total_steps} steps of the schedule"
        source.refuse("linear_decay.steps_or_fraction", why)
        steps = factors.total_steps
    factors.decay(steps / factors.total_steps)


def _linear_decay_learning_rate(source: SourceConfig, factors: _Factors) -> None:
    factors.constant *= source.get("linear_decay_learning_rate.initial_lr", 0.1)
    offset = source.get("linear_decay_learning_rate.offset", 0)
    factors.decay((factors.total_steps - offset) / factors.total_steps)


def _noam(source: SourceConfig, factors: _Factors) -> None:
    name = "learning_rate_schedule_noam"
    offset = int(source.get(f"{name}.offset", 0))
    if offset and factors.offset:
        source.refuse(f"{name}.offset", "the product of schedules has an offset as well")
    elif offset:
        factors.offset = offset
        factors.total_steps -= offset
    factors.constant *= source.get(f"{name}.multiplier", 1.0)
    steps = source.get(f"{name}.warmup_steps", 10_000)
    factors.schedules["optim.TruncatedRsqrt"] = {"warmup_steps": steps}
    fraction = source.get(f"{name}.linear_decay_fraction", 0.1)
    if fraction > 0:
        factors.decay(fraction)


def _slanted_triangular(source: SourceConfig, factors: _Factors) -> None:
    start = int(source.get("slanted_triangular.start_step", 0))
    parameters = {
        "total_steps": factors.total_steps,
        "cut_fraction": source.get("slanted_triangular.cut_fraction", 0.1),
        "ratio": source.get("slanted_triangular.ratio", 32),
        "maximum": source.get("slanted_triangular.max_learning_rate", 0.01),
        "extrapolate": True,
    }
    factors.schedules["optim.SlantedTriangular"] = parameters
    if start and factors.offset:
        why = "the product of schedules has an offset as well"
        source.refuse("slanted_triangular.start_step", why)
    elif start:
        factors.offset = start


_SCHEDULES: Mapping[str, Callable[[SourceConfig, _Factors], None]] = {
    "constant": _constant,
    "constant_learning_rate": _constant_learning_rate,
    "truncated_rsqrt": _truncated_rsqrt,
    "linear_warmup": _linear_warmup,
    "linear_decay": _linear_decay,
    "linear_decay_learning_rate": _linear_decay_learning_rate,
    "learning_rate_schedule_noam": _noam,
    "slanted_triangular": _slanted_triangular,
}
