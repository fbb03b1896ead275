from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import gin
from mtfrun.configuration.entry_points import load_entry_points

PUBLISHING = (
    "mtfrun.data",
    "mtfrun.decoding",
    "mtfrun.metrics",
    "mtfrun.experiment",
    "mtfrun.layers",
    "mtfrun.models",
    "mtfrun.models.moe",
    "mtfrun.models.resnet",
    "mtfrun.models.transformer",
    "mtfrun.mtf",
    "mtfrun.mtf.parameters.initializers",
    "mtfrun.optim",
    "mtfrun.training",
)
"""The core's modules that configurations may use. Other modules of mtfrun have functions that write
files and run commands."""


def module_names() -> dict[str, str]:
    """Returns the publishing modules by their names in gin files: "optim".

    The core's come last, since gin takes a short name that two modules have from the last: "squad"
    is `metrics.squad`, not `t5_metrics.squad`.
    """
    modules = {name: x.__name__ for name, x in load_entry_points("mtfrun.gin").items()}
    return modules | {path.rpartition(".")[2]: path for path in PUBLISHING}


@functools.cache
def load_published() -> Mapping[str, Any]:
    """Returns the classes and functions for configurations by name, such as "optim.Adam"."""
    objects = {}
    for package, path in module_names().items():
        module = importlib.import_module(path)
        for name in exported_names(module):
            objects[f"{package}.{name}"] = getattr(module, name)
    return objects


def published_name(target: Any) -> str | None:
    return _published_names().get((target.__module__, target.__qualname__))


@functools.cache
def _published_names() -> dict[tuple[str, str], str]:
    return {
        (value.__module__, value.__qualname__): name
        for name, value in load_published().items()
        if is_configurable(value)
    }


def is_configurable(value: object) -> bool:
    return inspect.isclass(value) or inspect.isfunction(value)


def exported_names(module: Any) -> list[str]:
    """Returns the names that a package's __init__.py imports, or that another module defines."""
    if hasattr(module, "__getattr__"):  # its names are lazy
        return list(module.__all__)
    is_package = hasattr(module, "__path__")

    def is_exported(value: object) -> bool:
        if is_package:
            return not inspect.ismodule(value)
        return bool(getattr(value, "__module__", None) == module.__name__)

    return [name for name, x in vars(module).items() if name[0] != "_" and is_exported(x)]


def public_names(imports: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Maps "optim.Adam" and "Adam" to ("from mtfrun import optim", "optim.Adam"), for example."""
    names = {}
    for name, path in imports.items():
        statement = import_statement(name, path)
        module = importlib.import_module(path)
        for attribute in exported_names(module):
            if is_configurable(getattr(module, attribute)):
                full_name = f"{name}.{attribute}"
                names[full_name] = names[attribute] = (statement, full_name)
    return names


def import_statement(name: str, path: str) -> str:
    if name == path:
        return f"import {path}"
    parent, _, last = path.rpartition(".")
    return f"from {parent} import {last}" + ("" if name == last else f" as {name}")


def signature_of(target: Any) -> dict[str, inspect.Parameter]:
    try:
        # A subclass that gin makes has another signature, but its __init__ has the class's.
        signature = inspect.signature(target.__init__ if inspect.isclass(target) else target)
    except ValueError:  # exceptions and other classes that are written in C
        return {}
    return {
        name: p
        for name, p in signature.parameters.items()
        if name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def parameters_of(selector: str) -> dict[str, inspect.Parameter]:
    try:
        return signature_of(gin.get_configurable(selector))
    except (ValueError, KeyError):
        return {}


def default_text(target: Any, parameter: inspect.Parameter) -> str | None:
    default = parameter.default
    if default is parameter.empty:
        return None
    for field in dataclasses.fields(target) if dataclasses.is_dataclass(target) else ():
        if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
    if inspect.isclass(default) or inspect.isroutine(default):
        return f"@{shown_name(default)}"
    return repr(default)


def shown_name(target: Any) -> str:
    return published_name(target) or f"{target.__module__}.{target.__qualname__}"
