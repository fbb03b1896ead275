from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gin.config import ConfigurableReference

import gin
from mtfrun.configuration.gin_values import map_parts


class _BoundFunction(ConfigurableReference):  # type: ignore[misc]
    """`@function` in a value of the configuration.

    The function takes its arguments from the configuration when gin passes the value to a class.
    gin's references take them at every call, perhaps after another run was loaded.
    """

    def __init__(self, reference: ConfigurableReference) -> None:
        self.__dict__.update(vars(reference))

    def __eq__(self, other: object) -> bool:
        """Before gin writes a reference, it compares it."""
        return isinstance(other, ConfigurableReference) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __deepcopy__(self, memo: object) -> Callable[..., Any]:
        """To evaluate a reference, gin copies it."""
        scope = gin.config_scope(self.scopes) if self.scopes else contextlib.nullcontext()
        with scope:
            arguments = gin.get_bindings(self.configurable.selector)
        return _bound(self.configurable.wrapped, arguments)


def bind_functions(value: Any) -> Any:
    if isinstance(value, ConfigurableReference):
        is_function = not value.evaluate and not inspect.isclass(value.configurable.wrapped)
        return _BoundFunction(value) if is_function else value
    return map_parts(bind_functions, value)


def _bound(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """A caller's arguments replace the bound ones."""
    if not arguments:
        return function
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        positional = signature.bind_partial(*args).arguments
        bound = {name: value for name, value in arguments.items() if name not in positional}
        return function(*args, **{**bound, **kwargs})

    return call
