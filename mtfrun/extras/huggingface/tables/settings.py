from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.errors import did_you_mean
from mtfrun.experiment.conversion.importer import ConversionError

Flag = bool | tuple[str, bool]
"""A constant, or a setting's name and default."""

_MISSING = object()
# The tanh form of gelu has several names: transformers/activations.py.
_ACTIVATIONS = {
    "relu": "mtf.relu",
    "gelu_new": "mtf.gelu",
    "gelu_pytorch_tanh": "mtf.gelu",
    "gelu_fast": "mtf.gelu",
    "gelu_accurate": "mtf.gelu",
    "gelu_python_tanh": "mtf.gelu",
    "gelu": "mtf.exact_gelu",
    "gelu_python": "mtf.exact_gelu",
    "quick_gelu": "mtf.sigmoid_gelu",
    "silu": "mtf.swish",
    "swish": "mtf.swish",
    "tanh": "mtf.tanh",
    "sigmoid": "mtf.sigmoid",
}
# Larger rates, scales or bases do not fit float32.
_LARGEST_NUMBER = 1e30
# Maximum size of a dimension.
_LARGEST_INTEGER = 2**40


@dataclasses.dataclass(frozen=True)
class Settings:
    """A configuration of transformers 4 or 5; `where` is the file, for messages.

    `tensors` are the folder's tensors without copies, or empty: transformers uses a separate
    softmax if the folder has it, regardless of the configuration.
    """

    values: Mapping[str, Any]
    where: str = "config.json"
    tensors: frozenset[str] = frozenset()

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        value = self._value(name, _MISSING if default is None else default)
        if type(value) is not int or not least <= value <= _LARGEST_INTEGER:
            raise self.error(name, f"must be an integer of at least {least}, and at most 2^40")
        return value

    def non_negative(self, name: str, default: int) -> int:
        return self.integer(name, default, 0)

    def count(self, name: str, default: int | None = None) -> int:
        """At most the number of tensors, to bound lists of names."""
        value = self.integer(name, default)
        if self.tensors and value > len(self.tensors):
            raise self.error(name, f"is more than the {len(self.tensors)} tensors of the folder")
        return value

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        value = self._value(name, _MISSING if default is None else list(default))
        if type(value) is not list or not value:
            raise self.error(name, "must be a list of integers")
        if any(type(item) is not int or item < 1 for item in value):
            raise self.error(name, "must be integers of at least 1")
        return list(value)

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, _MISSING if default is None else default)
        if type(value) not in (int, float) or not abs(value) < _LARGEST_NUMBER:
            raise self.error(name, "must be a number")
        return float(value)

    def numbers(self, name: str) -> list[float]:
        value = self._value(name, _MISSING)
        if type(value) is not list or not value:
            raise self.error(name, "must be a list of numbers")
        if any(type(x) not in (int, float) or not 0 < x < _LARGEST_NUMBER for x in value):
            raise self.error(name, "must be numbers above 0")
        return [float(x) for x in value]

    def flag(self, name: str, default: bool) -> bool:  # noqa: FBT001 - the default of a flag
        value = self._value(name, default)
        if type(value) is not bool:
            raise self.error(name, "must be true or false")
        return value

    def is_set(self, flag: Flag) -> bool:
        return flag if isinstance(flag, bool) else self.flag(*flag)

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, _MISSING if default is None else default)
        if type(value) is not str:
            raise self.error(name, "must be a text")
        return value

    def optional_integer(self, name: str) -> int | None:
        return None if self.values.get(name) is None else self.integer(name)

    def require(self, name: str, allowed: object, *others: object) -> None:
        """Refuses other values of a setting that changes the computation."""
        value = self.values.get(name)
        supported = (allowed, *others)
        if value is not None and value not in supported:
            names = ", ".join(map(repr, supported))
            raise self.error(name, f"is not supported; supported: {names}")

    def activation(self, setting: str, default: str) -> Reference:
        return self.activation_of(setting, self.text(setting, default))

    def activation_of(self, setting: str, name: str) -> Reference:
        """Returns our function for transformers' name."""
        if name not in _ACTIVATIONS:
            raise self.error(setting, f"is not supported; supported: {', '.join(_ACTIVATIONS)}")
        return reference(f"@{_ACTIVATIONS[name]}")

    def error(self, name: str, problem: str) -> ConversionError:
        text = repr(self.values.get(name))
        text = f"{text[:80]}..." if len(text) > 80 else text
        return ConversionError(f"{self.where}: {name}={text} {problem}")

    def _value(self, name: str, default: object) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is _MISSING:
            hint = did_you_mean(name, self.values)
            raise ConversionError(f"{self.where} has no {name}{hint}")
        return default


def name_of_activation(reference: object) -> str | None:
    """Returns transformers' name for "@mtf.gelu", or None."""
    names = {f"@{ours}": theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    return names.get(reference) if isinstance(reference, str) else None
