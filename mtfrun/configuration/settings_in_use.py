from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import gin
from mtfrun.configuration.checks import arguments_of, calls_of, last_bindings
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


def settings_in_use(bindings: Sequence[Binding], roots: Sequence[type]) -> list[Setting]:
    """Does not build or read data. `roots` are the classes that the program calls."""
    last = last_bindings(bindings)
    macros = macros_of(last)
    values = values_of_macros(last)
    calls = calls_of(last, [gin.get_configurable(root) for root in roots])
    settings: dict[tuple[str, str], Setting] = {}
    for (_, function), arguments in arguments_of(last, calls).items():
        if function == MACRO:
            continue
        scope = max((binding.scope for binding in arguments.values()), key=len, default="")
        owner = f"{scope}/" * bool(scope) + shown_name(function)
        docs = parameter_docs(function)
        for name, parameter in signature_of(function).items():
            default = default_text(function, parameter)
            setting = Setting(owner, name, default, default, None, (), docs.get(name, ""))
            if name in arguments:
                value, chain = arguments[name].value, macro_chain(arguments[name].value, macros)
                setting = dataclasses.replace(
                    setting,
                    value=value_text(replace_macros(value, values)),
                    place=[arguments[name], *chain][-1].place,
                    macros=tuple(macro.scope for macro in chain),
                )
            settings.setdefault((owner, name), setting)
    return list(settings.values())


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
