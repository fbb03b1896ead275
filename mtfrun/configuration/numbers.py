"""The parameters of a configuration on which the numbers of a training depend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mtfrun.configuration import config
from mtfrun.configuration.checks import target_of
from mtfrun.configuration.errors import parameters_of
from mtfrun.configuration.foreign import published_names
from mtfrun.configuration.statements import MACRO, Binding, Reference, Statements

DATA = ("experiment.Experiment", "data")
"""The parameter of the data, which have a fingerprint of their own."""

# The classes whose parameters are followed.
_ROOTS = ("experiment.Experiment", "experiment.Training")
_EVALUATION = "experiment.Evaluation"

# The parameters that change no number of a training but by rounding. Every other one does, unless
# it belongs to a class that only these refer to.
NEUTRAL: Mapping[str, frozenset[str]] = {
    "experiment.Experiment": frozenset({"inference", "outer_batch", "use_averages", "warm_start"}),
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
    """A parameter in use.

    Attributes:
      target: the class or function, by the name that mtfrun publishes: "transformer.Stack".
      name: "encoder/transformer.Stack.num_layers".
      parameter: "num_layers".
      text: the value as gin writes it, without macros.
      is_default: whether it is the default of the class.
      refers_to: the classes and functions in the value.
    """

    def __init__(self, binding: Binding, macros: Mapping[str, Any]):
        self.target = _name_of(binding.selector)
        self.parameter = binding.parameter
        self.name = f"{binding.scope}/" * bool(binding.scope) + f"{self.target}.{self.parameter}"
        self.refers_to: set[str] = set()
        self.text = self._text_of(binding.value, macros)
        known = parameters_of(binding.selector).get(binding.parameter)
        self.is_default = known is not None and self.text == repr(known.default)

    @property
    def is_neutral(self) -> bool:
        return self.parameter in NEUTRAL.get(self.target, ()) or self.target == _EVALUATION

    def _text_of(self, value: Any, macros: Mapping[str, Any]) -> str:
        if isinstance(value, Reference) and value.selector == MACRO:
            return self._text_of(macros[value.scopes[-1]], macros)
        if isinstance(value, Reference):
            name = _name_of(value.selector)
            self.refers_to.add(name)
            return "@" + "/".join([*value.scopes, name]) + "()" * value.called
        if isinstance(value, dict):
            items = (f"{k!r}: {self._text_of(v, macros)}" for k, v in value.items())
            return "{" + ", ".join(items) + "}"
        if isinstance(value, list | tuple):
            text = ", ".join(self._text_of(item, macros) for item in value)
            comma = "," * (len(value) == 1)
            return f"({text}{comma})" if isinstance(value, tuple) else f"[{text}]"
        return repr(value)


def numbers_of_training(*, with_data: bool) -> dict[str, dict[str, str]]:
    """Returns the parameters in use that change the numbers of a training, as texts by name.

    Under "given" are those that differ from the defaults of their classes, under "defaults" the
    others. The objects that they belong to must have been built.

    Args:
      with_data: whether those of the data are among them.
    """
    parameters = list(_parameters_in_use())
    neutral = _neutral_targets(parameters, with_data=with_data)
    numbers: dict[str, dict[str, str]] = {"given": {}, "defaults": {}}
    for parameter in parameters:
        if not (parameter.is_neutral or parameter.target in neutral):
            numbers["defaults" if parameter.is_default else "given"][parameter.name] = (
                parameter.text
            )
    return numbers


def _parameters_in_use() -> Iterator[_Parameter]:
    """Yields the parameters of what was called, and of functions that are called later."""
    operative, bound = Statements(), Statements()
    operative.add_text(config.operative_config_text())
    bound.add_text(config.config_text())
    called = {binding.selector for binding in operative.bindings}
    macros = {
        b.scope: b.value for s in (bound, operative) for b in s.bindings if b.selector == MACRO
    }
    # The arguments of functions are bound when gin passes them to a class: gin does not see a call.
    later = (binding for binding in bound.bindings if binding.selector not in called)
    for binding in (*operative.bindings, *later):
        if binding.selector != MACRO:
            yield _Parameter(binding, macros)


def _neutral_targets(parameters: Iterable[_Parameter], *, with_data: bool) -> set[str]:
    """Returns the classes and functions to which only neutral parameters lead."""
    followed: dict[str, set[str]] = {}  # what a class refers to by parameters that are not neutral
    referred: dict[str, set[str]] = {}  # what it refers to at all
    neutral_starts = {_EVALUATION}
    for parameter in parameters:
        is_data = (parameter.target, parameter.parameter) == DATA
        referred.setdefault(parameter.target, set()).update(parameter.refers_to)
        if parameter.is_neutral or (is_data and not with_data):
            neutral_starts |= parameter.refers_to
        else:
            followed.setdefault(parameter.target, set()).update(parameter.refers_to)
    return _reached(neutral_starts, referred) - _reached(_ROOTS, followed)


def _reached(starts: Iterable[str], references: Mapping[str, Iterable[str]]) -> set[str]:
    reached: set[str] = set()
    queue = list(starts)
    while queue:
        target = queue.pop()
        if target not in reached:
            reached.add(target)
            queue.extend(references.get(target, ()))
    return reached


def _name_of(selector: str) -> str:
    """Returns the name of a class or function, whatever the imports of a gin file call it."""
    target = target_of(selector)
    place = str(target.__module__), str(target.__qualname__)
    return published_names().get(place) or f"{place[0].rpartition('.')[2]}.{place[1]}"
