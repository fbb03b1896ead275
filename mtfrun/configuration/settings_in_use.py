"""Every parameter that a configuration uses: its value, its default, and what has set it."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
from mtfrun.configuration.checks import calls_of, scopes_of, target_of
from mtfrun.configuration.docstrings import parameter_docs
from mtfrun.configuration.errors import exported_names
from mtfrun.configuration.foreign import PUBLISHING
from mtfrun.configuration.statements import MACRO, Binding, Reference, value_text


@dataclasses.dataclass(frozen=True)
class Setting:
    """A parameter of a class or function that a run calls.

    Attributes:
      owner: the class or function, "optim.Adafactor"; with its scope, if it has values of its own
        there, "encoder/transformer.Stack".
      name: of the parameter.
      value: as gin writes it, with the values of macros; None where the program gives it.
      default: as Python writes it; None without one.
      place: the line of a file or the flag that has set the value; None for a default.
      macros: by way of which it was set, first the one that the parameter is bound to.
      doc: what the docstring says.
    """

    owner: str
    name: str
    value: str | None
    default: str | None
    place: str | None
    macros: tuple[str, ...]
    doc: str


class _Target(NamedTuple):
    """A class or function in a scope, with the bindings of its parameters.

    Attributes:
      function: the class or function.
      scope: the innermost one in which it has bindings; "" for none.
      bindings: by parameter.
    """

    function: Any
    scope: str
    bindings: Mapping[str, Binding]

    @property
    def owner(self) -> str:
        """The name, with the scope."""
        return f"{self.scope}/" * bool(self.scope) + shown_name(self.function)


def settings_in_use(bindings: Sequence[Binding], roots: Sequence[type]) -> list[Setting]:
    """Returns the parameters of all classes and functions that a configuration refers to.

    Nothing is built and no data are read.

    Args:
      bindings: what `config.parse` returned, of the configuration that gin has.
      roots: the classes that the program calls.
    """
    last = {(b.scope, target_of(b.selector), b.parameter): b for b in bindings}
    macros = {scope: b for (scope, function, _), b in last.items() if function == MACRO}
    settings: dict[tuple[str, str], Setting] = {}
    for target in _targets(last, [gin.get_configurable(root) for root in roots]):
        docs = parameter_docs(target.function)
        for parameter in signature_of(target.function):
            setting = _setting(target, parameter, macros, docs.get(parameter.name, ""))
            settings.setdefault((setting.owner, setting.name), setting)
    return list(settings.values())


def signature_of(function: Any) -> list[inspect.Parameter]:
    """Returns the parameters of a class or function that gin can bind."""
    try:
        # gin's subclasses have a signature of their own, their __init__ has that of the class.
        signature = inspect.signature(function.__init__ if inspect.isclass(function) else function)
    except ValueError:  # exceptions and others that are written in C
        return []
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    return [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def default_text(function: Any, parameter: inspect.Parameter) -> str | None:
    """Returns the default of a parameter as Python writes it, None without one."""
    default = parameter.default
    if default is parameter.empty:
        return None
    if dataclasses.is_dataclass(function):
        fields = {field.name: field for field in dataclasses.fields(function)}
        field = fields.get(parameter.name)
        if field is not None and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
    if inspect.isclass(default) or inspect.isroutine(default):
        return f"@{shown_name(default)}"
    return repr(default)


def shown_name(function: Any) -> str:
    """Returns the name of a class or function in gin files: "optim.Adam"."""
    module, name = function.__module__, function.__qualname__
    return published_names().get(f"{module}.{name}", f"{module}.{name}")


@functools.cache
def published_names() -> dict[str, str]:
    """Returns the names in gin files of what mtfrun publishes, by the names of definitions."""
    names = {}
    for path in PUBLISHING:
        module = importlib.import_module(path)
        # rundir publishes its file warm_start alone.
        package = "rundir" if path.endswith(".warm_start") else path.rpartition(".")[2]
        for name in exported_names(module):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                names[f"{value.__module__}.{value.__qualname__}"] = f"{package}.{name}"
    return names


def _targets(
    last: Mapping[tuple[str, Any, str], Binding], roots: Sequence[Any]
) -> Iterator[_Target]:
    """Yields the classes and functions that are called, or passed to others, when roots are."""
    of_target: dict[tuple[str, Any], dict[str, Binding]] = {}
    for (scope, function, parameter), binding in last.items():
        of_target.setdefault((scope, function), {})[parameter] = binding
    for call in calls_of(last.values(), roots):
        function = call[1]
        if function == MACRO:
            continue
        bindings: dict[str, Binding] = {}
        own_scope = ""
        for scope in scopes_of(call):
            if (scope, function) in of_target:
                bindings |= of_target[scope, function]
                own_scope = scope
        yield _Target(function, own_scope, bindings)


def _setting(
    target: _Target, parameter: inspect.Parameter, macros: Mapping[str, Binding], doc: str
) -> Setting:
    default = default_text(target.function, parameter)
    binding = target.bindings.get(parameter.name)
    if binding is None:
        return Setting(target.owner, parameter.name, default, default, None, (), doc)
    names: list[str] = []
    last = binding
    while isinstance(last.value, Reference) and last.value.selector == MACRO:
        name = last.value.scopes[-1]
        if name not in macros:
            break
        names.append(name)
        last = macros[name]
    return Setting(
        target.owner,
        parameter.name,
        value_text(binding.value, macros),
        default,
        last.place,
        tuple(names),
        doc,
    )
