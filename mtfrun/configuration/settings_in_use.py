from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
from mtfrun.configuration.checks import calls_of, scopes_of, target_of
from mtfrun.configuration.gin_values import MACRO, replace_macros, value_text
from mtfrun.configuration.published import default_text, shown_name, signature_of
from mtfrun.configuration.statements import Binding, macro_chain, macros_of, values_of_macros

_SECTION = re.compile(r"^(Args|Attributes):\n((?:[ ]+.*\n|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*(?:\n[ ]+.*)*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A parameter of a class or function that a run calls.

    `owner` is "optim.Adafactor", or "encoder/transformer.Stack" if there are values in a scope.
    `value`, as gin writes it and without macros, is None where the program passes it; `default` is
    None without one; `place`, the line or flag, is None for a default. The first of `macros` is the
    one that the parameter is bound to.
    """

    owner: str
    name: str
    value: str | None
    default: str | None
    place: str | None
    macros: tuple[str, ...]
    doc: str


class _Target(NamedTuple):
    """A class or function in the innermost scope with bindings, which are by parameter."""

    function: Any
    scope: str
    bindings: Mapping[str, Binding]

    @property
    def owner(self) -> str:
        return f"{self.scope}/" * bool(self.scope) + shown_name(self.function)


def settings_in_use(bindings: Sequence[Binding], roots: Sequence[type]) -> list[Setting]:
    """Builds nothing and reads no data. `roots` are the classes that the program calls."""
    last = {(b.scope, target_of(b.selector), b.parameter): b for b in bindings}
    macros = macros_of(last.values())
    settings: dict[tuple[str, str], Setting] = {}
    for target in _targets(last, [gin.get_configurable(root) for root in roots]):
        docs = parameter_docs(target.function)
        for parameter in signature_of(target.function).values():
            setting = _setting(target, parameter, macros, docs.get(parameter.name, ""))
            settings.setdefault((setting.owner, setting.name), setting)
    return list(settings.values())


def _targets(
    last: Mapping[tuple[str, Any, str], Binding], roots: Sequence[Any]
) -> Iterator[_Target]:
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
    chain = macro_chain(binding.value, macros)
    values = values_of_macros(macros.values())
    return Setting(
        target.owner,
        parameter.name,
        value_text(replace_macros(binding.value, values)),
        default,
        [binding, *chain][-1].place,
        tuple(macro.scope for macro in chain),
        doc,
    )


def summary(target: Any) -> str:
    return (inspect.getdoc(target) or "").partition("\n")[0]


def parameter_docs(target: Any) -> dict[str, str]:
    """Returns the docstrings' words about each parameter; a class goes before its bases."""
    texts = [target.__doc__]
    if inspect.isclass(target):
        classes = [cls for cls in reversed(target.__mro__) if cls is not object]
        constructors = [vars(cls).get("__init__") for cls in classes]
        texts = [item.__doc__ for item in (*classes, *constructors) if item is not None]
    docs: dict[str, str] = {}
    for text in filter(None, texts):
        docs |= _entries(text)
    return docs


def first_sentence(text: str) -> str:
    """Returns a text up to its first full stop or semicolon.

    >>> first_sentence("Which are saved; None for all. By default all.")
    'Which are saved'
    """
    return re.split(r"[.;](?= |$)", text, maxsplit=1)[0]


def _entries(docstring: str) -> dict[str, str]:
    r"""Returns the entries of the sections Args and Attributes.

    >>> _entries("Does.\n\nArgs:\n  a, b: two\n    numbers.\n\nRaises:\n  ValueError: never.")
    {'a': 'two numbers.', 'b': 'two numbers.'}
    """
    entries = {}
    # Some classes say of their attributes that they are the arguments: these come last.
    for _, section in sorted(_SECTION.findall(inspect.cleandoc(docstring) + "\n"), reverse=True):
        for names, text in _ENTRY.findall(textwrap.dedent(section)):
            for name in names.split(", "):
                entries[name.lstrip("*")] = " ".join(text.split())
    return entries
