"""Checks of the arguments of Python functions, and their texts in gin.

An error deep inside a function would not name the argument.
"""

from __future__ import annotations

import ast
import contextlib
import numbers
import os
from collections.abc import Iterable, Mapping, Set
from typing import Any

from mtfrun.errors import ConfigError, InputError

# Characters of a value that an error shows.
_SHOWN = 60
# What a gin reference or macro begins with.
_REFERENCE_SIGNS = ("@", "%")


def list_of(values: object, name: str, example: str) -> list[Any]:
    if isinstance(values, str | bytes):
        raise InputError(f"{name} are a list: [{quote(values)}]")
    if isinstance(values, Iterable) and not isinstance(values, Mapping | Set):
        with contextlib.suppress(TypeError):  # of an array without dimensions
            return list(values)
    raise InputError(f"{name} are a list: [{example}], not {quote(values)}")


def texts_of(prompts: object) -> list[bytes]:
    return [
        _as_bytes(prompt, f"prompts[{i}]")
        for i, prompt in enumerate(list_of(prompts, "prompts", '"def "'))
    ]


def pairs_of(pairs: object) -> list[tuple[bytes, bytes]]:
    result = []
    for i, pair in enumerate(list_of(pairs, "pairs", '("1 2", "one two")')):
        both = list_of(pair, f"pairs[{i}]", '"1 2", "one two"')
        if len(both) != 2:
            raise InputError(f"pairs[{i}] is a pair (input, target), not {quote(pair)}")
        first, second = (_as_bytes(text, f"pairs[{i}][{j}]") for j, text in enumerate(both))
        result.append((first, second))
    return result


def path_of(path: object, name: str) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"{name}={quote(path)}: it must be a path, such as '/tmp/run'")
    return text


def paths_of(paths: object, name: str) -> list[str]:
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    return [path_of(path, name) for path in list_of(paths, name, "'runs/quickstart.gin'")]


def names_of(values: object, name: str, example: str) -> list[str]:
    for value in (values := list_of(values, name, repr(example))):
        if not isinstance(value, str):
            raise InputError(f"{name} are texts: [{example!r}], not {quote(value)}")
    return values


def check_optional_text(value: object, name: str, example: str) -> None:
    is_valid = value is None or isinstance(value, str)
    check_argument(is_valid, name, value, f"a text such as {example!r}, or None")


def check_switches(**switches: object) -> None:
    for name, value in switches.items():
        check_argument(isinstance(value, bool), name, value, "True or False")


def check_checkpoint(checkpoint: Any) -> None:
    is_step = isinstance(checkpoint, str | numbers.Integral) and str(checkpoint).isdecimal()
    is_valid = is_step or checkpoint in (None, "latest", "best")
    check_argument(is_valid, "checkpoint", checkpoint, "a step, 'latest', 'best' or None")


def quote(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({type(value).__name__})"


def literal_bindings(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Returns the bindings of Python values to macros and parameters.

    A text that begins with @ or % is a reference, as in a gin file. ConfigError if a value has no
    form in gin.

    >>> literal_bindings({"BATCH_SIZE": 8, "TASK": "@data.Task()"})
    [('BATCH_SIZE=8', 'BATCH_SIZE = 8'), ('TASK=@data.Task()', 'TASK = @data.Task()')]
    """
    texts = {name: _literal(name, value) for name, value in values.items()}
    return [(f"{name}={text}", f"{name} = {text}") for name, text in texts.items()]


def _literal(name: str, value: object) -> str:
    if isinstance(value, str) and value.startswith(_REFERENCE_SIGNS):
        return value
    import numpy as np  # noqa: PLC0415 - takes a tenth of a second

    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    text = repr(value)
    try:
        is_literal = bool(ast.literal_eval(text) == value)
    except (ValueError, SyntaxError):
        is_literal = False
    if not is_literal:
        what = f"{name}={quote(value)} is not a Python literal"
        raise ConfigError(f'{what}; what gin should make is a text such as "@optim.Adam()"')
    return text


def check_argument(is_valid: bool, name: str, value: object, rule: str) -> None:  # noqa: FBT001
    if not is_valid:
        raise InputError(f"{name}={quote(value)}: it must be {rule}")


def _as_bytes(text: object, name: str) -> bytes:
    if not isinstance(text, str | bytes):
        raise InputError(f"{name} is a text or bytes, not {quote(text)}")
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
