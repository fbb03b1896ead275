"""The settings of a run, and explanations of names, as the commands `config ...` show them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gin
from mtfrun.configuration import published
from mtfrun.configuration.checks import arguments_of, calls_of, last_bindings
from mtfrun.configuration.files import GinHeader, shipped_gin_files, shipped_headers
from mtfrun.configuration.gin_values import MACRO, replace_macros, value_text
from mtfrun.configuration.statements import (
    Binding,
    Statements,
    macro_chain,
    macros_of,
    values_of_macros,
)
from mtfrun.errors import InputError, did_you_mean

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
        owner = f"{scope}/" * bool(scope) + published.shown_name(function)
        docs = parameter_docs(function)
        for name, parameter in published.signature_of(function).items():
            default = published.default_text(function, parameter)
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


class Explanation(NamedTuple):
    """`kind` is "macro", "class", "function", "parameter" or "gin file".

    `text` is a docstring, the meaning of a macro, or the header of a gin file; `set_by` has lines,
    "place: value"; `used_by` the parameters that are bound to a macro.
    """

    name: str
    kind: str
    text: str
    parameters: Mapping[str, tuple[str | None, str]] = {}
    default: str | None = None
    set_by: Sequence[str] = ()
    used_by: Sequence[str] = ()


def explain(name: str) -> list[Explanation]:
    """Returns several explanations if classes have parameters of the same name."""
    if name in shipped_headers():
        return [_explain_file(shipped_headers()[name])]
    statements = Statements()
    for file in shipped_gin_files():
        statements.add_shipped_file(file)
    bindings = statements.bindings
    macros = set(macros_of(bindings))
    if name in macros:
        return [_explain_macro(name, bindings)]
    targets = {
        full: target
        for full, target in published.load_published().items()
        if published.is_configurable(target)
    }

    def find(name: str) -> Iterable[str]:
        # Two packages export some classes; one name of each is enough.
        return {id(targets[x]): x for x in targets if not name or _is_called(x, name)}.values()

    if named := find(name):
        return [_explain_target(full, targets[full], bindings) for full in named]
    owner, _, parameter = name.rpartition(".")
    chosen = [full for full in find(owner) if parameter in published.signature_of(targets[full])]
    if chosen:
        return [_explain_parameter(full, targets[full], parameter, bindings) for full in chosen]
    shorts = {full.partition(".")[2]: target for full, target in targets.items()}
    parameters = {short: published.signature_of(target) for short, target in shorts.items()}
    owned = {f"{short}.{name}" for short, names in parameters.items() for name in names}
    known = {*macros, *targets, *shorts, *owned}.union(*parameters.values())
    hint = did_you_mean(name, sorted(known)) or "; mtfrun config show lists the gin files"
    raise InputError(f"nothing is called {name}{hint}")


def _is_called(full: str, name: str) -> bool:
    return name in (full, full.partition(".")[2])


def _explain_macro(name: str, bindings: Sequence[Binding]) -> Explanation:
    meanings: dict[str, None] = {}
    for header in shipped_headers().values():
        for names, meaning in header.overridden.items():
            listed, parts = names.split(", "), meaning.split(", ")
            if name in listed:
                is_each = len(parts) == len(listed)
                meanings[parts[listed.index(name)] if is_each else meaning] = None
    own = [b for b in bindings if b.selector == MACRO and b.scope == name]
    users = dict.fromkeys(b.name for b in bindings for r in b.references() if r.macro == name)
    set_by = [f"{b.place}: {b.value_text}" for b in own]
    return Explanation(name, "macro", "\n".join(meanings), set_by=set_by, used_by=list(users))


def _explain_file(header: GinHeader) -> Explanation:
    fields = {"Paper": header.paper, "Cost": header.cost, "Result": header.result}
    lines = [header.description, *(f"{title}: {text}" for title, text in fields.items() if text)]
    if header.overridden:
        lines.append("Commonly overridden:")
    lines += [f"{names}: {meaning}" for names, meaning in header.overridden.items()]
    lines += ["Command:", header.command] if header.command else []
    return Explanation(header.name, "gin file", "\n".join(lines))


def _explain_target(name: str, target: Any, bindings: Sequence[Binding]) -> Explanation:
    docs = parameter_docs(target)
    parameters = {
        parameter: (published.default_text(target, signature), docs.get(parameter, ""))
        for parameter, signature in published.signature_of(target).items()
    }
    kind = "class" if inspect.isclass(target) else "function"
    set_by = _set_by(name, bindings)
    return Explanation(name, kind, inspect.getdoc(target) or "", parameters, set_by=set_by)


def _set_by(target: str, bindings: Sequence[Binding], *parameters: str) -> list[str]:
    return [
        f"{b.place}: {b.name} = {b.value_text}"
        for b in bindings
        if _is_called(target, b.selector) and (not parameters or b.parameter in parameters)
    ]


def _explain_parameter(
    name: str, target: Any, parameter: str, bindings: Sequence[Binding]
) -> Explanation:
    signature = published.signature_of(target)[parameter]
    return Explanation(
        f"{name}.{parameter}",
        "parameter",
        parameter_docs(target).get(parameter, "") or f"Of: {summary(target)}",
        default=published.default_text(target, signature) or "none, it must be given",
        set_by=_set_by(name, bindings, parameter),
    )
