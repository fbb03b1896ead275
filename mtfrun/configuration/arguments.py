"""Checks of the arguments of Python functions; an error deep inside would not name the argument."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping, Set
from typing import Any

from mtfrun.configuration.ranges import range_of
from mtfrun.errors import InputError

_FRACTIONS = ("alpha", "temperature", "top_p")
# Characters of a value that an error shows.
_SHOWN = 60


def list_of(values: object, name: str, example: str) -> list[Any]:
    if isinstance(values, str | bytes):
        raise InputError(f"{name} are a list: [{shown(values)}]")
    if isinstance(values, Mapping | Set) or not isinstance(values, Iterable):
        raise InputError(f"{name} are a list: [{example}], not {shown(values)}")
    try:
        return list(values)
    except TypeError:  # an array without dimensions
        raise InputError(f"{name} are a list: [{example}], not {shown(values)}") from None


def texts_of(prompts: object) -> list[bytes]:
    return [
        _as_bytes(prompt, f"prompts[{i}]")
        for i, prompt in enumerate(list_of(prompts, "prompts", '"def "'))
    ]


def pairs_of(pairs: object) -> list[tuple[bytes, bytes]]:
    result = []
    for i, pair in enumerate(list_of(pairs, "pairs", '("1 2", "one two")')):
        try:
            both = list_of(pair, "", "")
        except InputError:
            both = []
        if len(both) != 2:
            raise InputError(f"pairs[{i}] is a pair (input, target), not {shown(pair)}")
        texts = [_as_bytes(text, f"pairs[{i}][{j}]") for j, text in enumerate(both)]
        result.append((texts[0], texts[1]))
    return result


def numbers_of(settings: Mapping[str, Any]) -> dict[str, int | float]:
    """Returns the settings that are not None, checked against the ranges of their parameters."""
    result: dict[str, int | float] = {}
    for name, value in settings.items():
        if value is None:
            continue
        is_fraction = name in _FRACTIONS
        kind = numbers.Real if is_fraction else numbers.Integral
        if not _is_number(value, kind):
            wanted = "a number" if is_fraction else "an integer"
            raise InputError(f"{name}={shown(value)}: it must be {wanted}")
        result[name] = number = float(value) if is_fraction else int(value)
        allowed = range_of("mtfrun", name)
        if allowed is not None and number not in allowed:
            raise InputError(f"{name}={shown(value)}: it must be {allowed}")
        if not math.isfinite(number):
            raise InputError(f"{name}={shown(value)}: it must be finite")
    return result


def path_of(path: object, name: str) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"{name}={shown(path)}: it must be a path, such as '/tmp/run'")
    return text


def paths_of(paths: object, name: str) -> list[str]:
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    return [path_of(path, name) for path in list_of(paths, name, "'runs/quickstart.gin'")]


def names_of(values: object, name: str, example: str) -> list[str]:
    for value in (values := list_of(values, name, repr(example))):
        if not isinstance(value, str):
            raise InputError(f"{name} are texts: [{example!r}], not {shown(value)}")
    return values


def check_optional_text(value: object, name: str, example: str) -> None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name}={shown(value)}: it must be a text such as {example!r}, or None")


def check_switches(**switches: object) -> None:
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InputError(f"{name}={shown(value)}: it must be True or False")


def check_checkpoint(checkpoint: Any) -> None:
    is_step = _is_number(checkpoint, numbers.Integral) and checkpoint >= 0
    is_name = isinstance(checkpoint, str) and (
        checkpoint in ("latest", "best") or checkpoint.isdecimal()
    )
    if not (checkpoint is None or is_name or is_step):
        raise InputError(
            f"checkpoint={shown(checkpoint)}: it must be a step, 'latest', 'best' or None"
        )


def shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({type(value).__name__})"


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _as_bytes(text: object, name: str) -> bytes:
    if not isinstance(text, str | bytes):
        raise InputError(f"{name} is a text or bytes, not {shown(text)}")
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
