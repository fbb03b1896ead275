from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping

from mtfrun.configuration import published
from mtfrun.configuration.statements import short_path
from mtfrun.errors import ConfigError, did_you_mean, nearest

_PLACE = re.compile(r'\n  In (?:file "(?P<file>.*)",|bindings string) line (?P<line>\d+)\n')
_CALL = re.compile(r"\n\s+(?:.*\n\s+)*?In call to configurable '(.*?)'")
# Top-level modules with frames that do not help to find the user's mistake.
_LIBRARIES = frozenset({"gin", "mtfrun", "numpy", "tensorflow", *sys.stdlib_module_names}) - {
    "__main__"
}
_ImportedModules = Mapping[str, str]


@contextlib.contextmanager
def explained(imports: _ImportedModules, flag: str | None = None) -> Iterator[None]:
    """Raises gin's exceptions as ConfigErrors. `imports` are by their names in gin files."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        text = str(error)
        place = _PLACE.search(text)
        where = flag or "configuration"
        if place and not flag:
            where = f"{short_path(place['file'])}:{place['line']}"
        first_line = (text[: place.start()] if place else text).split("\n")[0].strip()
        for pattern, explanation in _EXPLANATIONS:
            if match := re.search(pattern, first_line):
                raise ConfigError(f"{where}: {explanation(match, imports)}") from None
        if place_in_own_module(error):
            raise
        what = first_line or type(error).__name__
        raise ConfigError(f"{where}: not a configuration: {what}") from None


def place_in_own_module(error: BaseException) -> str | None:
    """Returns "file:line" of the last module of the user that an exception has passed, if any."""
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        # `python -m` calls a module __main__, except in its __spec__.
        spec = frame.f_globals.get("__spec__")
        name = str(spec.name if spec else frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in _LIBRARIES:
            place = f"{short_path(frame.f_code.co_filename)}:{line}"
    return place


def explain_call(error: Exception) -> ConfigError | None:
    """Returns the error of a class of mtfrun that was called with values of wrong kinds."""
    call = _CALL.search(str(error))
    if call is None or place_in_own_module(error):
        return None
    kind = type(error).__name__
    reason = str(error)[: call.start()].split("\n")[0].strip()
    return ConfigError(
        f"{call[1]} cannot be made of the values that the configuration gives it: {kind}: "
        f"{reason}; --debug shows where"
    )


def explain_missing(error: Exception) -> ConfigError | None:
    text = str(error)
    missing = re.search(r"No values supplied by Gin or caller for arguments: \[(.*?)\]", text)
    call = re.search(r"In call to configurable '(.*?)'", text)
    if not missing or not call:
        return None
    names = missing[1].replace("'", "")
    remedy = f"bind {call[1]}.{names.split(',')[0]} in a gin file"
    return ConfigError(f"{call[1]} needs a value for {names}: {remedy}")


def _unknown_parameter(match: re.Match[str], _imports: _ImportedModules) -> str:
    parameters = published.parameters_of(match[1])
    hint = did_you_mean(match[2], parameters) or f"; it has {', '.join(parameters) or 'none'}"
    return f"{match[1]} has no parameter {match[2]!r}{hint}"


def _unknown_name(match: re.Match[str], imports: _ImportedModules) -> str:
    name = match[1]
    public = published.public_names({**published.module_names(), **imports})
    if name in public:  # gin looks it up only in files with dynamic registration
        statement, full_name = public[name]
        write = "" if name == full_name else f"write {full_name}, and "
        return (
            f"nothing is called {name} in this file; {write}add `from __gin__ import "
            f"dynamic_registration` and `{statement}` at its top"
        )
    # "optim.Adm" is compared with "optim.Adam", "Adm" with "Adam".
    names = [other for other in public if ("." in other) == ("." in name)]
    return f"nothing is called {name}{did_you_mean(name, names)}"


def _unknown_import(match: re.Match[str], imports: _ImportedModules) -> str:
    name = match[1]
    modules = {**published.module_names(), **imports}
    remedy = did_you_mean(name, modules) or "; import its module at the top of this file"
    if name in modules:
        remedy = (
            f"; add `{published.import_statement(name, modules[name])}` at the top of this file"
        )
    elif not nearest(name, modules):  # a class that is named without its module
        public = published.public_names(modules)
        if near := nearest(name, public):
            statement, full_name = public[near]
            remedy = f"; write {full_name}, with `{statement}` at the top of this file"
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
