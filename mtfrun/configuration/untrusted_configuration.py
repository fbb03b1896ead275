"""The check of a run directory's configuration, which may come from somebody else.

gin imports every module that a file imports, and calls every function that a value refers to. Files
on the command line are code. The `config.gin` of a run directory is data: it may use the published
classes and functions of mtfrun and of installed distributions; other modules only if
--gin_allow_imports names them.
"""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from gin import config_parser
from mtfrun.configuration.gin_errors import explained
from mtfrun.configuration.gin_values import shorten_flag
from mtfrun.configuration.published import load_published, module_names
from mtfrun.configuration.statements import SourceStatement, Statements
from mtfrun.errors import ConfigError

FLAG = "--gin_allow_imports"

# Callables of gin, by the only name that gin gives them.
_BUILTIN = ("gin.macro", "gin.constant", "gin.singleton")
_DYNAMIC_REGISTRATION = "__gin__.dynamic_registration"
_RECORD = re.compile(rf"^# .*{FLAG}=([\w.,]+)$", re.MULTILINE)


class _Unlisted(NamedTuple):
    """A place that does something ("imports subprocess") with a module that is not allowed."""

    place: str
    text: str
    module: str


def check_untrusted(statements: Statements, allowed: Sequence[str], config_of_run: str) -> None:
    """Raises ConfigError for modules and objects not `allowed`; checks all imports before any."""
    unlisted = list(_unlisted_imports(statements, allowed))
    if not unlisted:
        _check_registration(statements)
        unlisted = list(_unlisted_references(statements, allowed))
    if not unlisted:
        return
    place, text, _ = unlisted[0]
    modules = dict.fromkeys([*allowed, *(item.module for item in unlisted)])
    recorded = _RECORD.search(config_of_run)
    training = f"with {recorded[1]}" if recorded else "with mtfrun alone"
    raise ConfigError(
        f"{place}: the run's configuration {text}: with that it can run any code; if you trust it,"
        f" allow {FLAG}={','.join(modules)} (the run says that it was trained {training})"
    )


def name_modules(text: str, allowed: Sequence[str]) -> str:
    """Adds a comment at the top that names the modules of a trusted configuration."""
    statements = Statements()
    statements.add_text(text)
    needed = [*allowed]
    for find in (_unlisted_imports, _unlisted_references):
        while unlisted := next(find(statements, needed), None):
            needed.append(unlisted.module)
    if not needed:
        return text
    return f"# Besides mtfrun: {FLAG}={','.join(needed)}\n{text}"


def _unlisted_imports(statements: Statements, allowed: Sequence[str]) -> Iterator[_Unlisted]:
    for statement, place, _ in itertools.chain.from_iterable(statements.files):
        if _is_import(statement) and not _is_within(statement.module, _modules(allowed)):
            yield _Unlisted(place, f"imports {statement.module}", statement.module)


def _unlisted_references(statements: Statements, allowed: Sequence[str]) -> Iterator[_Unlisted]:
    """Yields the uses of objects that are not allowed; imports are allowed, and carried out."""
    identities = {id(value) for value in load_published().values()}
    for file in statements.files:
        modules: dict[str, ModuleType] = {}
        for entry in file:
            if _is_import(entry.statement):
                name = entry.statement.bound_name()
                modules[name] = _import_module(entry, statements.imports)
            for selector in _selectors(entry):
                for target in _path_of(selector, modules):
                    module = _unlisted_module(target, identities, allowed)
                    if module is not None:
                        yield _Unlisted(entry.place, f"uses {selector} of {module}", module)
                        break


def _check_registration(statements: Statements) -> None:
    """Refuses statements for which gin would look a name up among the objects of all modules."""
    for file in statements.files:
        is_on = False
        for entry in file:
            is_on = is_on or _is_registration(entry.statement)
            if not is_on and any(_selectors(entry)):
                first = "`from __gin__ import dynamic_registration`"
                raise ConfigError(f"{entry.place}: a run's configuration begins with {first}")


def _selectors(entry: SourceStatement) -> Iterator[str]:
    statement = entry.statement
    selectors = [reference.selector for reference in entry.references]
    is_block = isinstance(statement, config_parser.BlockDeclaration)
    # The bindings of macros have no parameter.
    is_binding = isinstance(statement, config_parser.BindingStatement) and statement.arg_name
    if is_block or is_binding:
        selectors.append(statement.selector)
    yield from (selector for selector in selectors if selector not in _BUILTIN)


def _import_module(entry: SourceStatement, imports: Mapping[str, str]) -> ModuleType:
    statement = entry.statement
    with explained(imports, entry.place):
        try:
            module = importlib.import_module(statement.module)
        except RecursionError:
            name = shorten_flag(statement.module)
            raise ConfigError(f"{entry.place}: no module {name!r}") from None
    if statement.is_from or statement.alias:
        return module
    return importlib.import_module(statement.bound_name())


def _path_of(selector: str, modules: Mapping[str, ModuleType]) -> Iterator[object]:
    """Yields the objects on the path of a dotted name; an attribute is read after its object."""
    first, *attributes = selector.split(".")
    target: Any = modules.get(first)
    for attribute in attributes:
        if target is None:
            return
        yield target
        target = getattr(target, attribute, None)
    if target is not None:
        yield target


def _unlisted_module(target: object, identities: set[int], allowed: Sequence[str]) -> str | None:
    if isinstance(target, ModuleType):
        name, prefixes = target.__name__, _modules(allowed)
    elif id(target) in identities:
        return None
    else:
        name, prefixes = str(getattr(target, "__module__", None) or "builtins"), (*allowed,)
    return None if _is_within(name, prefixes) else name


def _is_import(statement: Any) -> bool:
    is_import = isinstance(statement, config_parser.ImportStatement)
    return is_import and not _is_registration(statement)


def _is_registration(statement: Any) -> bool:
    return getattr(statement, "module", None) == _DYNAMIC_REGISTRATION and statement.is_from


def _modules(allowed: Sequence[str]) -> Sequence[str]:
    """Returns the modules that may be imported, with those below them."""
    return ("mtfrun", *module_names().values(), *allowed)


def _is_within(module: str, prefixes: Sequence[str]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)
