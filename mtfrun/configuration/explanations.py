"""Explanations of macros, classes, functions, parameters and gin files: `mtfrun config explain`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun.configuration.files import GinHeader, shipped_gin_files, shipped_headers
from mtfrun.configuration.gin_values import MACRO
from mtfrun.configuration.published import (
    default_text,
    is_configurable,
    load_published,
    signature_of,
)
from mtfrun.configuration.settings_in_use import parameter_docs, summary
from mtfrun.configuration.statements import Binding, Statements, macros_of
from mtfrun.errors import InputError, did_you_mean


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
    targets = {full: target for full, target in load_published().items() if is_configurable(target)}

    def find(name: str) -> Iterable[str]:
        # Two packages export some classes; one name of each is enough.
        return {id(targets[x]): x for x in targets if not name or _is_called(x, name)}.values()

    if named := find(name):
        return [_explain_target(full, targets[full], bindings) for full in named]
    owner, _, parameter = name.rpartition(".")
    chosen = [full for full in find(owner) if parameter in signature_of(targets[full])]
    if chosen:
        return [_explain_parameter(full, targets[full], parameter, bindings) for full in chosen]
    raise InputError(f"nothing is called {name}{_nearest(name, macros, targets)}")


def _nearest(name: str, macros: set[str], targets: Mapping[str, Any]) -> str:
    owner, _, parameter = name.rpartition(".")
    owners = [full for full in targets if owner and _is_called(full, owner)]
    if owners:  # a class that exists, without this parameter
        names = list(signature_of(targets[owners[0]]))
        return did_you_mean(parameter, names) or f"; {owners[0]} has {', '.join(names) or 'none'}"
    shorts = {full.partition(".")[2] for full in targets}
    parameters = {name for target in targets.values() for name in signature_of(target)}
    candidates = {*macros, *targets} if owner else {*macros, *shorts, *parameters}
    return did_you_mean(name, sorted(candidates)) or "; mtfrun config show lists the gin files"


def _is_called(full: str, name: str) -> bool:
    return name in (full, full.partition(".")[2])


def _explain_macro(name: str, bindings: Sequence[Binding]) -> Explanation:
    meanings = dict.fromkeys(
        _meaning(name, names.split(", "), meaning)
        for header in shipped_headers().values()
        for names, meaning in header.overridden.items()
        if name in names.split(", ")
    )
    set_by = [
        f"{b.place}: {b.value_text}" for b in bindings if b.selector == MACRO and b.scope == name
    ]
    used_by = {
        b.name: None for b in bindings for reference in b.references() if reference.macro == name
    }
    return Explanation(name, "macro", "\n".join(meanings), set_by=set_by, used_by=list(used_by))


def _meaning(name: str, names: Sequence[str], text: str) -> str:
    parts = text.split(", ")
    return parts[names.index(name)] if len(parts) == len(names) else text


def _explain_file(header: GinHeader) -> Explanation:
    fields = {"Paper": header.paper, "Cost": header.cost, "Result": header.result}
    lines = [
        header.description,
        *(f"{title}: {text}" for title, text in fields.items() if text),
        *["Commonly overridden:"] * bool(header.overridden),
        *(f"{names}: {meaning}" for names, meaning in header.overridden.items()),
        *(["Command:", header.command] if header.command else []),
    ]
    return Explanation(header.name, "gin file", "\n".join(lines))


def _explain_target(name: str, target: Any, bindings: Sequence[Binding]) -> Explanation:
    docs = parameter_docs(target)
    parameters = {
        parameter: (default_text(target, signature), docs.get(parameter, ""))
        for parameter, signature in signature_of(target).items()
    }
    kind = "class" if inspect.isclass(target) else "function"
    set_by = [
        f"{b.place}: {b.name} = {b.value_text}" for b in bindings if _is_called(name, b.selector)
    ]
    return Explanation(name, kind, inspect.getdoc(target) or "", parameters, set_by=set_by)


def _explain_parameter(
    name: str, target: Any, parameter: str, bindings: Sequence[Binding]
) -> Explanation:
    signature = signature_of(target)[parameter]
    set_by = [
        f"{b.place}: {b.name} = {b.value_text}"
        for b in bindings
        if b.parameter == parameter and _is_called(name, b.selector)
    ]
    return Explanation(
        f"{name}.{parameter}",
        "parameter",
        parameter_docs(target).get(parameter, "") or f"Of: {summary(target)}",
        default=default_text(target, signature) or "none, it must be given",
        set_by=set_by,
    )
