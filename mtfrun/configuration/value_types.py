from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtfrun.configuration.gin_values import Reference
from mtfrun.configuration.published import load_published
from mtfrun.configuration.ranges import range_of
from mtfrun.configuration.statements import Binding
from mtfrun.errors import ConfigError, nearest

_PLAIN = (int, float, bool, str, type(None))
_VALUE, _LIST, _MAPPING, _REFERENCE = "a value", "a list", "a dictionary", "a reference"
_KINDS: Mapping[Any, str] = {
    **dict.fromkeys((list, tuple, Sequence, Collection, Iterable), _LIST),
    **dict.fromkeys((dict, Mapping), _MAPPING),
    **dict.fromkeys(_PLAIN, _VALUE),
}
_Macros = Mapping[str, Binding]


def check_value(binding: Binding, function: Any, macros: _Macros) -> None:
    """Checks the type and the range, but not references: their objects do not exist yet."""
    whole = binding.source(macros)
    annotation = _annotation(function, binding.parameter)
    wrong, remedy = _misfit(whole, annotation, macros), _type_text(annotation)
    if wrong is whole:
        remedy += _hint(wrong.value, annotation)
    numbers = range_of(function.__module__, binding.parameter)
    if wrong is None and numbers is not None:
        wrong, remedy = _outside(whole, numbers, macros), str(numbers)
    if wrong is not None:
        text = repr(whole.value)
        if wrong is not whole:
            text = f"{binding.value_text}, with {wrong.value!r}"
        name = f"{binding.selector}.{binding.parameter}"
        raise ConfigError(f"{wrong.place}: {name} is {text}: it must be {remedy}")


def _annotation(function: Any, parameter: str) -> Any:
    owners: list[Any] = [function]
    if isinstance(function, type):
        # A dataclass field is annotated in the module of the base class that declares it, not in
        # the generated constructor.
        owners = [
            base
            if dataclasses.is_dataclass(base) and init.__code__.co_filename == "<string>"
            else init
            for base in function.__mro__
            if (init := inspect.unwrap(vars(base).get("__init__", int))) is not int
        ]
    for owner in owners:
        text = getattr(owner, "__annotations__", {}).get(parameter)
        if text is not None:
            one = types.SimpleNamespace(__annotations__={parameter: text})
            with contextlib.suppress(NameError, TypeError):  # names for type checkers only
                return typing.get_type_hints(one, vars(sys.modules[owner.__module__]))[parameter]
    return Any


def _options(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if is_union else (annotation,)


def _kind_of(option: Any) -> tuple[str, tuple[Any, ...]]:
    """Returns the kind of values, and the types of their items."""
    items = tuple(a for a in typing.get_args(option) if a is not ...)
    return _KINDS.get(typing.get_origin(option) or option, _REFERENCE), items


def _misfit(part: Binding, annotation: Any, macros: _Macros) -> Binding | None:
    """Returns the part of a value that does not fit, as a binding of its own, with its place."""
    part = part.source(macros)
    if isinstance(part.value, Reference):
        return None
    misfits = [_misfit_of_one(part, option, macros) for option in _options(annotation)]
    if None in misfits:
        return None
    # Report the wrong item of a list rather than the list.
    return next((wrong for wrong in misfits if wrong is not part), part)


def _misfit_of_one(part: Binding, option: Any, macros: _Macros) -> Binding | None:
    value = part.value
    kind, items = _kind_of(option)
    if kind == _VALUE:
        accepts = type(value) is option or (option is float and type(value) is int)
        return None if accepts else part
    if kind == _REFERENCE:
        return part if _is_reference(option) else None
    if not isinstance(value, dict if kind == _MAPPING else list | tuple):
        return part
    typed_items = [(x, items) for x in value]
    if isinstance(value, dict):
        typed_items = [(x, items[:1]) for x in value] + [(x, items[1:]) for x in value.values()]
    wrong = (
        _misfit(replace(part, value=item), typing.Union[allowed or (Any,)], macros)  # noqa: UP007
        for item, allowed in typed_items
    )
    return next((item for item in wrong if item is not None), None)


def _is_reference(option: Any) -> bool:
    """False for user-defined classes: the function that takes one may convert a plain value."""
    origin = typing.get_origin(option) or option
    module = origin.__module__ if isinstance(origin, type) else ""
    return origin is Callable or module.partition(".")[0] in ("mtfrun", "tensorflow")


def _outside(part: Binding, numbers: Collection[float], macros: _Macros) -> Binding | None:
    part = part.source(macros)
    value = part.value
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        wrong = (_outside(replace(part, value=item), numbers, macros) for item in items)
        return next((item for item in wrong if item is not None), None)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return part if is_number and value not in numbers else None


def _type_text(annotation: Any) -> str:
    texts = []
    for option in _options(annotation):
        kind, items = _kind_of(option)
        if kind == _VALUE:
            kind = "None" if option is type(None) else option.__name__
        elif kind == _LIST and items:
            kind += f" of {_type_text(typing.Union[items])}"  # noqa: UP007
        texts.append(kind)
    return " or ".join(dict.fromkeys(sorted(texts, key=_REFERENCE.__eq__)))


def _hint(value: Any, annotation: Any) -> str:
    options = [option for option in _options(annotation) if option is not type(None)]
    if all(map(_is_reference, options)):
        return _as_reference(value)
    if all(_kind_of(option)[0] == _LIST for option in options):
        return "" if isinstance(value, list | tuple | dict) else f": [{value!r}]"
    if isinstance(value, float) and int in options and value.is_integer():
        return f"; write {int(value)}"
    if value in (0, 1) and bool in options:
        return f"; write {bool(value)}"
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            if type(ast.literal_eval(value)) in options:
                return f"; write {value}, without quotes"
    return ""


def _as_reference(value: Any) -> str:
    names = {
        name.partition(".")[2].lower(): f"@{name}{'()' * isinstance(target, type)}"
        for name, target in load_published().items()
    }
    near = nearest(str(value).lower(), names)
    return f", such as {names[near]}" if near else ": @module.Class() or @module.function"
