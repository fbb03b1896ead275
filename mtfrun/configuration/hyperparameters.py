"""The settings that change the results of a training, and those that change its variables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtfrun.configuration import gin_values
from mtfrun.configuration.checks import target_of
from mtfrun.configuration.published import parameters_of, published_name
from mtfrun.configuration.statements import (
    Binding,
    bindings_in,
    follow,
    last_part,
    values_of_macros,
)
from mtfrun.errors.differences import Change, changes

# The parameter of the data, which have a fingerprint.
_DATA = ("experiment.Experiment", "data")

# The classes at which the search for parameters starts.
_ROOTS = ("experiment.Experiment", "experiment.Training")
_EVALUATION = "experiment.Evaluation"

# The parameters that change no number of a training but by rounding. Every other one does, unless
# it belongs to a class that only these refer to.
NEUTRAL: Mapping[str, set[str]] = {
    "experiment.Experiment": {"inference", "outer_batch", "use_averages", "init_checkpoint"},
    "experiment.Training": {"actions", "evaluate_every_steps"},
    "mtf.DeviceSettings": {"deterministic", "memory_growth"},
    "mtf.Mesh": {"devices", "layout", "shape"},
    "training.TrainOptions": {
        *("checkpoints", "default_hooks", "hooks", "iterations_per_loop", "jit_compile"),
        *("log_every_steps", "on_nan", "profile", "secs_per_loop", "train_steps"),
    },
}
# The same in every class, such as `transformer.Stack`.
NEUTRAL_IN_ALL_CLASSES = {"rematerialise", "scan_blocks"}


# The parameters of classes that the program calls that determine the variables of a checkpoint; the
# data explain them, by the vocabulary, only if nothing else has changed.
_SOURCES = (
    ("Experiment.model", "Training.optimizer", "Training.frozen", "Training.average_decay"),
    ("Experiment.data",),
)
# Parameters that do not affect variables, nor do the parameters below them.
_WITHOUT_VARIABLES = ("learning_rate", "learning_rate_factors")


class _Parameter:
    """A parameter in use, by the names that mtfrun publishes; `text` is without macros."""

    def __init__(self, binding: Binding, macros: Mapping[str, Any]):
        self.target = _name_of(binding.selector)
        self.parameter = binding.parameter
        self.name = f"{binding.scope}/" * bool(binding.scope) + f"{self.target}.{self.parameter}"
        self.refers_to: set[str] = set()
        self.text = gin_values.value_text(
            self._rename(gin_values.replace_macros(binding.value, macros))
        )
        parameter = parameters_of(binding.selector).get(binding.parameter)
        self.is_default = parameter is not None and self.text == repr(parameter.default)

    @property
    def is_neutral(self) -> bool:
        neutral = NEUTRAL_IN_ALL_CLASSES | NEUTRAL.get(self.target, set())
        return self.parameter in neutral or self.target == _EVALUATION

    def _rename(self, value: Any) -> Any:
        if not isinstance(value, gin_values.Reference):
            return gin_values.map_parts(self._rename, value)
        name = _name_of(value.selector)
        self.refers_to.add(name)
        return dataclasses.replace(value, selector=name)


def hyperparameters(
    bindings: Sequence[Binding], operative_config: str
) -> dict[str, bool | float | str]:
    """Returns the values of the macros in use and of the parameters that flags have set."""
    macros = values_of_macros(bindings_in(operative_config))
    flags = {b.name: b.value for b in bindings if b.from_flag and b.selector != gin_values.MACRO}
    values: dict[str, bool | float | str] = {}
    for name, bound in {**macros, **flags}.items():
        value = gin_values.with_reference_texts(gin_values.replace_macros(bound, macros))
        is_number = isinstance(value, bool | int | float) and math.isfinite(value)
        values[name] = value if is_number else str(value)
    return values


def training_hyperparameters(
    operative_config: str, config: str, *, with_data: bool
) -> dict[str, dict[str, str]]:
    """Returns the parameters that change results: "given" if not the default, else "defaults"."""
    parameters = list(_parameters_in_use(bindings_in(operative_config), bindings_in(config)))
    neutral = _neutral_targets(parameters, with_data=with_data)
    texts: dict[str, dict[str, str]] = {"given": {}, "defaults": {}}
    for parameter in parameters:
        if not (parameter.is_neutral or parameter.target in neutral):
            part = texts["defaults" if parameter.is_default else "given"]
            part[parameter.name] = parameter.text
    return texts


def changes_of_hyperparameters(saved: Any, present: Any) -> list[Change]:
    """Returns the changes between two results of `training_hyperparameters`.

    A parameter of one side counts unless it has its default: classes gain and lose parameters.
    """
    old_given, old_defaults = texts_of_parameters(saved)
    new_given, new_defaults = texts_of_parameters(present)
    in_old = old_given.keys() | old_defaults.keys()
    in_new = new_given.keys() | new_defaults.keys()
    old = {name: text for name, text in old_defaults.items() if name in in_new} | old_given
    new = {name: text for name, text in new_defaults.items() if name in in_old} | new_given
    return changes(old, new)


def texts_of_parameters(parameters: Any) -> list[dict[str, str]]:
    """Returns two mappings of parameters to texts: set by the user, and defaults."""
    parts = parameters if isinstance(parameters, Mapping) else {}
    values = [parts.get(name) for name in ("given", "defaults")]
    return [dict(part) if isinstance(part, Mapping) else {} for part in values]


def _parameters_in_use(
    operative: Sequence[Binding], bound: Sequence[Binding]
) -> Iterator[_Parameter]:
    called = {binding.selector for binding in operative}
    macros = values_of_macros([*bound, *operative])
    # The arguments of functions are bound when gin passes them to a class: gin does not see a call.
    later = (binding for binding in bound if binding.selector not in called)
    for binding in (*operative, *later):
        if binding.selector != gin_values.MACRO:
            yield _Parameter(binding, macros)


def _neutral_targets(parameters: Iterable[_Parameter], *, with_data: bool) -> set[str]:
    followed: dict[str, set[str]] = {}  # by parameters that are not neutral
    referred: dict[str, set[str]] = {}  # by all parameters
    neutral_starts = {_EVALUATION}
    for parameter in parameters:
        is_data = (parameter.target, parameter.parameter) == _DATA
        referred.setdefault(parameter.target, set()).update(parameter.refers_to)
        if parameter.is_neutral or (is_data and not with_data):
            neutral_starts |= parameter.refers_to
        else:
            followed.setdefault(parameter.target, set()).update(parameter.refers_to)
    neutral = follow(neutral_starts, lambda target: referred.get(target, ()))
    essential = follow(_ROOTS, lambda target: followed.get(target, ()))
    return {*neutral}.difference(essential)


def _name_of(selector: str) -> str:
    target = target_of(selector)
    module = str(target.__module__).rpartition(".")[2]
    return published_name(target) or f"{module}.{target.__qualname__}"


def values_of(text: str) -> dict[str, str]:
    """Returns the values in a recorded configuration by the names of its bindings.

    >>> values_of("optim.Adam.learning_rate = %LEARNING_RATE")
    {'optim.Adam.learning_rate': '%LEARNING_RATE'}
    """
    return {binding.name: gin_values.value_text(binding.value) for binding in bindings_in(text)}


def changes_of_variables(old: str, new: str) -> list[Change]:
    """Returns the changes between two recorded configurations that may change the variables."""
    differing = changes(values_of(old), values_of(new))
    for sources in _SOURCES:
        names = _names_below(bindings_in(old), sources) | _names_below(bindings_in(new), sources)
        if explaining := [change for change in differing if change.name in names]:
            return explaining
    return []


def _names_below(bindings: Sequence[Binding], sources: tuple[str, ...]) -> set[str]:
    named = {b.name: b for b in bindings if b.parameter not in _WITHOUT_VARIABLES}
    below: dict[str, list[str]] = {}  # by the name of a macro, or of a class without its module
    for name, binding in named.items():
        key = binding.scope if binding.selector == gin_values.MACRO else last_part(binding.selector)
        below.setdefault(key, []).append(name)

    def names_in(name: str) -> Iterator[str]:
        for reference in named[name].references():
            yield from below.get(reference.macro or last_part(reference.selector), ())

    return {*follow([name for name in named if name.endswith(sources)], names_in)}
