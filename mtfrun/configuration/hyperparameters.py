from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun.configuration.checks import target_of
from mtfrun.configuration.config import config_text, operative_config_text
from mtfrun.configuration.gin_values import (
    MACRO,
    Reference,
    map_parts,
    replace_macros,
    value_text,
    with_reference_texts,
)
from mtfrun.configuration.published import parameters_of, published_name
from mtfrun.configuration.statements import Binding, bindings_in, values_of_macros

DATA = ("experiment.Experiment", "data")
"""The parameter of the data, which have a fingerprint."""

# The classes whose parameters are followed.
_ROOTS = ("experiment.Experiment", "experiment.Training")
_EVALUATION = "experiment.Evaluation"

# The parameters that change no number of a training but by rounding. Every other one does, unless
# it belongs to a class that only these refer to.
NEUTRAL: Mapping[str, frozenset[str]] = {
    "experiment.Experiment": frozenset(
        {"inference", "outer_batch", "use_averages", "init_checkpoint"}
    ),
    "experiment.Training": frozenset({"actions", "evaluate_every_steps"}),
    "mtf.DeviceSettings": frozenset({"deterministic", "memory_growth"}),
    "mtf.Mesh": frozenset({"devices", "layout", "shape"}),
    "training.TrainOptions": frozenset(
        {
            "checkpoints",
            "iterations_per_loop",
            "jit_compile",
            "log_every_steps",
            "on_nan",
            "profile",
            "secs_per_loop",
            "train_steps",
        }
    ),
    "transformer.Stack": frozenset({"rematerialise", "scan_blocks"}),
}


class _Parameter:
    """A parameter in use, by the names that mtfrun publishes; `text` is without macros."""

    def __init__(self, binding: Binding, macros: Mapping[str, Any]):
        self.target = _name_of(binding.selector)
        self.parameter = binding.parameter
        self.name = f"{binding.scope}/" * bool(binding.scope) + f"{self.target}.{self.parameter}"
        self.refers_to: set[str] = set()
        self.text = value_text(self._rename(replace_macros(binding.value, macros)))
        known = parameters_of(binding.selector).get(binding.parameter)
        self.is_default = known is not None and self.text == repr(known.default)

    @property
    def is_neutral(self) -> bool:
        return self.parameter in NEUTRAL.get(self.target, ()) or self.target == _EVALUATION

    def _rename(self, value: Any) -> Any:
        if not isinstance(value, Reference):
            return map_parts(self._rename, value)
        name = _name_of(value.selector)
        self.refers_to.add(name)
        return dataclasses.replace(value, selector=name)


class Hyperparameters(NamedTuple):
    """Macros in use and parameters set by flags; `set_by_user`: by flags or by the user's files."""

    values: Mapping[str, Any]
    set_by_user: Collection[str]


def hyperparameters(bindings: Sequence[Binding], files: Sequence[str]) -> Hyperparameters:
    macros = values_of_macros(bindings_in(operative_config_text()))
    flags = {b.name: b.value for b in bindings if b.from_flag and b.selector != MACRO}
    values = {
        name: with_reference_texts(replace_macros(value, macros))
        for name, value in {**macros, **flags}.items()
    }
    names = {b.name for b in bindings if b.from_flag or b.place.rpartition(":")[0] in files}
    return Hyperparameters(values, names & values.keys())


def training_hyperparameters(*, with_data: bool) -> dict[str, dict[str, str]]:
    """Returns the parameters that change results: "given" if not the default, else "defaults"."""
    parameters = list(_parameters_in_use())
    neutral = _neutral_targets(parameters, with_data=with_data)
    texts: dict[str, dict[str, str]] = {"given": {}, "defaults": {}}
    for parameter in parameters:
        if not (parameter.is_neutral or parameter.target in neutral):
            part = texts["defaults" if parameter.is_default else "given"]
            part[parameter.name] = parameter.text
    return texts


def _parameters_in_use() -> Iterator[_Parameter]:
    operative, bound = bindings_in(operative_config_text()), bindings_in(config_text())
    called = {binding.selector for binding in operative}
    macros = values_of_macros([*bound, *operative])
    # The arguments of functions are bound when gin passes them to a class: gin does not see a call.
    later = (binding for binding in bound if binding.selector not in called)
    for binding in (*operative, *later):
        if binding.selector != MACRO:
            yield _Parameter(binding, macros)


def _neutral_targets(parameters: Iterable[_Parameter], *, with_data: bool) -> set[str]:
    followed: dict[str, set[str]] = {}  # by parameters that are not neutral
    referred: dict[str, set[str]] = {}  # by all parameters
    neutral_starts = {_EVALUATION}
    for parameter in parameters:
        is_data = (parameter.target, parameter.parameter) == DATA
        referred.setdefault(parameter.target, set()).update(parameter.refers_to)
        if parameter.is_neutral or (is_data and not with_data):
            neutral_starts |= parameter.refers_to
        else:
            followed.setdefault(parameter.target, set()).update(parameter.refers_to)
    return _reachable(neutral_starts, referred) - _reachable(_ROOTS, followed)


def _reachable(starts: Iterable[str], references: Mapping[str, Iterable[str]]) -> set[str]:
    reached: set[str] = set()
    queue = list(starts)
    while queue:
        target = queue.pop()
        if target not in reached:
            reached.add(target)
            queue.extend(references.get(target, ()))
    return reached


def _name_of(selector: str) -> str:
    target = target_of(selector)
    module = str(target.__module__).rpartition(".")[2]
    return published_name(target) or f"{module}.{target.__qualname__}"
