"""The configuration of a Mesh TensorFlow program, with an account of every binding.

The conversion reads the parameters that it supports. All other bindings are ignored for a reason in
`program.py`, or reported as not supported.
"""

from __future__ import annotations

import copy
import enum
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun.configuration.gin_values import MACRO, Reference, map_parts, references_in, value_text
from mtfrun.configuration.statements import Binding
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.mesh_tensorflow.importer.program import (
    ALWAYS_CALLED,
    BASES,
    CALLABLES,
    IGNORED,
    ONE_VALUE,
)

# The arguments of one of our classes.
Parameters = dict[str, Any]


class Layer(NamedTuple):
    """A layer of ours, with the parameters of classes by name.

    `bias` has the parameters of a RelativePositionBias that the layers of a stack may share.
    """

    cls: str
    parameters: dict[str, Parameters]
    bias: Parameters | None = None


# Classes with configurable methods: "Bitransformer.decode.beam_size".
_WITH_METHODS = ("Bitransformer", "Unitransformer")
# Limits for a value after macro expansion.
_MAX_VALUES = 100_000
_MAX_DEPTH = 128
_NOTHING_CALLS_IT = "nothing in this configuration uses it"


class Fate(enum.Enum):
    """What became of a binding."""

    TAKEN_OVER = "taken over"
    IGNORED = "ignored"
    NOT_SUPPORTED = "not supported"


class Key(NamedTuple):
    """The left side of a binding; a macro has the selector "" and its name as parameter."""

    scope: str
    selector: str
    parameter: str

    @property
    def name(self) -> str:
        selector = f"{self.selector}." * bool(self.selector)
        return f"{self.scope}/" * bool(self.scope) + selector + self.parameter


class Account(NamedTuple):
    name: str
    value: str
    fate: Fate
    why: str = ""


def short_name(name: str) -> str:
    """Returns the name of a class or function without its modules.

    >>> short_name("mesh_tensorflow.transformer.transformer_layers.SelfAttention")
    'SelfAttention'
    >>> short_name("transformer.Bitransformer.decode")
    'Bitransformer.decode'
    """
    parts = name.split(".")
    return ".".join(parts[-2:] if len(parts) > 1 and parts[-2] in _WITH_METHODS else parts[-1:])


def _kind(value: Any) -> str | None:
    if isinstance(value, bool):
        return "True or False"
    if isinstance(value, (int, float)):
        return "a number" if math.isfinite(value) else None
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list | tuple) else None


def name_of(value: Any) -> str:
    """Returns the short name of a reference, or the text of another value."""
    is_function = isinstance(value, Reference) and not value.macro
    return short_name("/".join([*value.scopes, value.selector])) if is_function else str(value)


class SourceConfig:
    """The bindings in effect in a scope, the user's over the `program`'s."""

    def __init__(self, bindings: Iterable[Binding], program: Iterable[Binding] = ()) -> None:
        self.scope = ""
        self.is_encoder = False
        own = {_key_of(binding): binding.value for binding in bindings}
        self._values = {_key_of(binding): binding.value for binding in program} | own
        self._own = list(own)
        self._called = set(ALWAYS_CALLED)
        self._counted: dict[Key, tuple[Fate, str]] = {}

    def within(self, scope: str) -> SourceConfig:
        """Returns a view of the same account in a scope."""
        view = copy.copy(self)
        view.scope = scope
        view.is_encoder = self.is_encoder or scope == "encoder"
        return view

    def get(self, target: str, default: Any = None) -> Any:
        """Returns the value of "SelfAttention.num_heads", and counts its binding as converted."""
        self._called.update(_selectors(target))
        value = default
        for key in self._bindings_of(target):
            self._count(key, Fate.TAKEN_OVER)
            value = self._resolve(self._values[key])
        if type(default) is int and isinstance(value, float) and value.is_integer():
            value = int(value)  # T5's operative configurations have "10000.0"
        kind = _kind(default)
        if kind is not None and kind is not _kind(value):
            raise ConversionError(
                f"{target} = {value_text(value)} is not {kind}, such as {value_text(default)}"
            )
        return value

    def get_optional(self, target: str, example: Any) -> Any:
        """Like `get`, for a parameter that may be None and is by default."""
        return None if self.get(target) is None else self.get(target, example)

    def bind(self, arguments: Mapping[str, Any]) -> None:
        """Binds arguments, by target, in the scope and outside of the account."""
        self._values |= {self._key(target): value for target, value in arguments.items()}

    def has_read(self, target: str) -> bool:
        """Returns whether a binding of exactly this scope has been counted."""
        return self._key(target) in self._counted

    def has(self, target: str) -> bool:
        """Returns whether a parameter is bound, without counting it."""
        return next(self._bindings_of(target), None) is not None

    def getter(self, selector: str) -> Callable[..., Any]:
        """Returns `get` for a class's parameters."""
        return lambda parameter, default=None: self.get(f"{selector}.{parameter}", default)

    def get_bound(self, target: str, example: Any) -> Any:
        """Returns the value of a required parameter."""
        if not self.has(target):
            self.refuse(target, "it has no value")
        return self.get(target, example)

    def require(self, target: str, allowed: Sequence[Any], why: str) -> Any:
        """Returns the value, or refuses it and returns the default, the first of `allowed`."""
        value = self.get(target, allowed[0])
        if any(_is_equal(value, other) for other in allowed):
            return value
        self.refuse(target, why)
        return allowed[0]

    def choose(self, target: str, names: Iterable[str]) -> str:
        """Returns the name of a referenced class or function, or the default, the first name."""
        default, *others = names
        value = self.get(target)
        name = default if value is None else name_of(value)
        if name in (default, *others):
            return name
        self.refuse(target, f"only {', '.join([default, *others])} are supported")
        return default

    def refuse(self, target: str, why: str) -> None:
        """Counts a parameter, bound or not, as not supported."""
        *_, key = self._key(target), *self._bindings_of(target)
        self._count(key, Fate.NOT_SUPPORTED, why)

    def ignore(self, target: str, why: str) -> None:
        self._called.add(target.rpartition(".")[0])
        for key in self._bindings_of(target):
            self._count(key, Fate.IGNORED, why)

    def ignore_calls_of(self, selector: str, why: str) -> None:
        for key in self._values:
            if key.selector == selector:
                self._count(key, Fate.IGNORED, why)

    def _count(self, key: Key, fate: Fate, why: str = "") -> None:
        """Of several fates the worst counts, the last of these."""
        order = list(Fate)
        if key not in self._counted or order.index(fate) >= order.index(self._counted[key][0]):
            self._counted[key] = fate, why

    def parameters_of(self, selector: str) -> dict[str, Any]:
        """Returns parameters of all scopes without counting them; macros may stay undefined."""
        return {
            key.parameter: self._resolve(value, lenient=True)
            for key, value in self._values.items()
            if key.selector == selector
        }

    def account(self) -> list[Account]:
        fates = {key: self._fate(key) for key in [*self._values, *self._counted]}
        macros: dict[str, tuple[Fate, str]] = {}
        # A macro has the best fate of those that use it.
        for fate in Fate:
            for key in self._values:
                if key.selector and fates[key][0] is fate:
                    for name in self._macros_in(self._values[key]):
                        macros.setdefault(name, fates[key])
        unused = Fate.IGNORED, _NOTHING_CALLS_IT
        fates |= {key: macros.get(key.parameter, unused) for key in self._own if not key.selector}
        refused = (key for key, (fate, _) in self._counted.items() if fate is Fate.NOT_SUPPORTED)
        order = dict.fromkeys([*self._own, *refused])
        return [Account(key.name, value_text(self._values.get(key)), *fates[key]) for key in order]

    def _fate(self, key: Key) -> tuple[Fate, str]:
        _, selector, parameter = key
        if key in self._counted:
            return self._counted[key]
        name = f"{selector}.{parameter}"
        if name in ONE_VALUE and selector in self._called:
            value, why = ONE_VALUE[name]
            is_supported = _is_equal(self._resolve(self._values[key]), value)
            return (Fate.TAKEN_OVER, "") if is_supported else (Fate.NOT_SUPPORTED, why)
        why = IGNORED.get(name, IGNORED.get(f"{selector}.*", ""))
        if why:
            return Fate.IGNORED, why
        if selector in CALLABLES and selector not in self._called:
            return Fate.IGNORED, _NOTHING_CALLS_IT
        known = selector in CALLABLES or selector in self._called
        return Fate.NOT_SUPPORTED, "unknown parameter" if known else "unknown class or function"

    def _macros_in(self, value: Any) -> set[str]:
        names: set[str] = set()
        values = [value]
        while values:
            for name in {reference.macro for reference in references_in(values.pop())} - names:
                if name:
                    names.add(name)
                    values.append(self._values.get(Key("", "", name)))
        return names

    def _key(self, target: str) -> Key:
        selector, _, parameter = target.rpartition(".")
        return Key(self.scope, selector, parameter)

    def _bindings_of(self, target: str) -> Iterator[Key]:
        """Yields the keys that bind a parameter in the scope, those in effect last."""
        parts = self.scope.split("/") if self.scope else []
        parameter = target.rpartition(".")[2]
        for selector in _selectors(target):
            for depth in range(len(parts) + 1):
                key = Key("/".join(parts[:depth]), selector, parameter)
                if key in self._values:
                    yield key

    def _resolve(self, value: Any, *, lenient: bool = False) -> Any:
        return self._replace(value, 0, iter(range(_MAX_VALUES)), lenient=lenient)

    def _replace(self, value: Any, depth: int, budget: Iterator[int], *, lenient: bool) -> Any:
        if next(budget, None) is None or depth > _MAX_DEPTH:
            raise ConversionError(
                f"a value has more than {_MAX_VALUES} parts, or {_MAX_DEPTH} nested levels"
            )
        replaced = functools.partial(self._replace, depth=depth + 1, budget=budget, lenient=lenient)
        if not isinstance(value, Reference) or not value.macro:
            return map_parts(replaced, value)
        key = Key("", "", value.macro)
        if key in self._values:
            return replaced(self._values[key])
        if lenient:
            return value
        raise ConversionError(f"the configuration uses {value}, which it never defines")


def _selectors(target: str) -> list[str]:
    """Returns the class of a parameter, behind the class from which it may inherit it."""
    selector = target.rpartition(".")[0]
    return [BASES[selector], selector] if selector in BASES else [selector]


def _is_equal(value: Any, other: Any) -> bool:
    return bool(value == other) and type(value) is type(other)


def _key_of(binding: Binding) -> Key:
    if binding.selector == MACRO:
        return Key("", "", binding.scope)
    return Key(binding.scope, short_name(binding.selector), binding.parameter)
