"""gin's errors as one line each, with the place and the nearest valid name."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gin
from mtfrun.configuration.config_error import ConfigError
from mtfrun.configuration.statements import short_path
from mtfrun.errors import did_you_mean

_PLACE = re.compile(r'\n  In (?:file "(?P<file>.*)",|bindings string) line (?P<line>\d+)\n')
_CALL = re.compile(r"\n\s+(?:.*\n\s+)*?In call to configurable '(.*?)'")
# Top-level modules whose frames say nothing about a module of the user's.
_LIBRARIES = frozenset({"gin", "mtfrun", "numpy", "tensorflow", *sys.stdlib_module_names}) - {
    "__main__"
}
_ImportedModules = Mapping[str, str]

# Shipped files that give a value to parameters that a configuration often lacks.
_FILES_WITH = {
    "Experiment.mesh": "defaults.gin",
    "Experiment.model": "models/lm_small.gin",
    "Experiment.data": "defaults.gin",
    "Task.source": "data/text_files.gin",
    "ImageData.source": "data/digits.gin",
}


def explain(error: Exception, imports: _ImportedModules, flag: str | None) -> ConfigError | None:
    """Returns the error for the user, or None if the exception is not one of gin's.

    Args:
      error: an exception of `gin.parse_config` or `gin.parse_config_file`.
      imports: module by the name it has in gin files.
      flag: the flag that was parsed; None for files.
    """
    text = str(error)
    place = _PLACE.search(text)
    where = flag or (f"{short_path(place['file'])}:{place['line']}" if place else "configuration")
    first_line = (text[: place.start()] if place else text).split("\n")[0].strip()
    for pattern, explanation in _EXPLANATIONS:
        match = re.search(pattern, first_line)
        if match:
            return ConfigError(f"{where}: {explanation(match, imports)}")
    if is_of_own_module(error):
        return None
    return ConfigError(f"{where}: not a configuration: {first_line or type(error).__name__}")


def is_of_own_module(error: Exception) -> bool:
    """Returns whether an exception has passed a module of the user's, who needs its traceback."""
    modules = (
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    )
    return not _LIBRARIES.issuperset(str(module).partition(".")[0] for module in modules)


def explain_call(error: Exception) -> ConfigError | None:
    """Returns the error of a class of mtfrun that was called with values of wrong kinds.

    None for an exception of a module of the user's.
    """
    call = _CALL.search(str(error))
    if call is None or is_of_own_module(error):
        return None
    kind = type(error).__name__
    reason = str(error)[: call.start()].split("\n")[0].strip()
    return ConfigError(
        f"{call[1]} cannot be made of the values that the configuration gives it: {kind}: "
        f"{reason}; --debug shows where"
    )


def explain_missing(error: Exception) -> ConfigError | None:
    """Returns the error of a call that lacks an argument, or None for another exception."""
    text = str(error)
    missing = re.search(r"No values supplied by Gin or caller for arguments: \[(.*?)\]", text)
    call = re.search(r"In call to configurable '(.*?)'", text)
    if not missing or not call:
        return None
    names = missing[1].replace("'", "")
    first = names.split(",")[0]
    name = f"{call[1].rpartition('.')[2]}.{first}"
    files = _FILES_WITH.get(name)
    has_one = f", or name a file that does: --gin_file={files}" if files else ""
    return ConfigError(
        f"{call[1]} needs a value for {names}: bind {call[1]}.{first} in a gin file{has_one}"
    )


def parameters_of(selector: str) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a registered class or function; none if it is not registered."""
    try:
        target: Any = gin.get_configurable(selector)
    except (ValueError, KeyError):
        return {}
    parameters = inspect.signature(target.__init__ if inspect.isclass(target) else target)
    return {n: p for n, p in parameters.parameters.items() if n != "self"}


def public_names(imports: _ImportedModules) -> dict[str, tuple[str, str]]:
    """Returns the classes and functions of the imported modules by their names.

    "optim.Adam" and "Adam" stand for ("from mtfrun import optim", "optim.Adam").
    """
    names = {}
    for name, path in imports.items():
        statement = _import_statement(name, path)
        module = importlib.import_module(path)
        for attribute in exported_names(module):
            value = getattr(module, attribute)
            if inspect.isclass(value) or inspect.isfunction(value):
                full_name = f"{name}.{attribute}"
                names[full_name] = names[attribute] = (statement, full_name)
    return names


def _import_statement(name: str, path: str) -> str:
    """Returns the statement that imports the module `path` as `name`."""
    if name == path:
        return f"import {path}"
    parent, _, last = path.rpartition(".")
    return f"from {parent} import {last}" + ("" if name == last else f" as {name}")


def exported_names(module: Any) -> list[str]:
    """Returns the names that a package's __init__.py imports, or that another module defines."""
    if hasattr(module, "__path__"):
        return [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and not inspect.ismodule(value)
        ]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _unknown_parameter(match: re.Match[str], _imports: _ImportedModules) -> str:
    known = parameters_of(match[1])
    hint = did_you_mean(match[2], known) or f"; it has {', '.join(known) or 'none'}"
    return f"{match[1]} has no parameter {match[2]!r}{hint}"


def _unknown_name(match: re.Match[str], imports: _ImportedModules) -> str:
    return f"nothing is called {match[1]}{_nearest_name(match[1], imports)}"


def _unknown_import(match: re.Match[str], imports: _ImportedModules) -> str:
    name = match[1]
    if name in imports:
        remedy = f"; add `{_import_statement(name, imports[name])}` at the top of this file"
    else:
        remedy = did_you_mean(name, imports) or "; import its module at the top of this file"
    return f"{name!r} is not imported{remedy}"


def _no_module(match: re.Match[str], _imports: _ImportedModules) -> str:
    parent, _, name = match[1].rpartition(".")
    siblings: Iterable[str] = ()
    if parent:
        with contextlib.suppress(ImportError, AttributeError):
            package = importlib.import_module(parent)
            siblings = [module.name for module in pkgutil.iter_modules(package.__path__)]
    hint = did_you_mean(name, siblings)
    if not parent and not hint:
        hint = "; start mtfrun in the directory that has it, or name that in PYTHONPATH"
    return f"no module {match[1]!r}{hint}"


def _nearest_name(name: str, imports: _ImportedModules) -> str:
    names = public_names(imports)
    # "optim.Adm" is compared with "optim.Adam", "Adm" with "Adam".
    return did_you_mean(name, [other for other in names if ("." in other) == ("." in name)])


_EXPLANATIONS: tuple[tuple[str, Callable[[re.Match[str], _ImportedModules], str]], ...] = (
    (r"^Configurable '(.*)' doesn't have a parameter named '(.*)'", _unknown_parameter),
    (r"^No configurable matching reference '@(?:.*/)?(.*?)(?:\(\))?'", _unknown_name),
    (r"^No configurable matching '(?:.*/)?(.*)'", _unknown_name),
    (r"^Couldn't resolve selector (\S+); ", _unknown_name),
    (r"^'(.*)' was not provided by an import statement", _unknown_import),
    (r"^No module named '(.*)'", _no_module),
    (
        r"Ambiguous selector '(.*)', matches (.*?)\.?\"?$",
        lambda match, _: f"{match[1]} could be any of {match[2]}: write more of its name",
    ),
)
