"""What the configuration of a run directory may name: a run may come from somebody else.

gin imports every module that a file imports, and calls whatever a value refers to. Files that are
named on the command line are code. A `config.gin` that lies in a run directory is data: it may
import mtfrun, refer to the classes and functions that mtfrun publishes for configurations, and to
nothing else unless --gin_allow_imports names its module.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from gin import config_parser
from mtfrun.cli.configuration.errors import explain, exported_names
from mtfrun.cli.configuration.statements import SourceStatement, Statements
from mtfrun.cli.errors import ConfigError

FLAG = "--gin_allow_imports"

_OWN = ("mtfrun",)
# What these modules export is for configurations. The rest of mtfrun is not: among it are functions
# that write files and run commands.
_PUBLISHING = (
    "mtfrun.data",
    "mtfrun.decoding",
    "mtfrun.evaluation",
    "mtfrun.experiment",
    "mtfrun.layers",
    "mtfrun.models",
    "mtfrun.models.moe",
    "mtfrun.models.resnet",
    "mtfrun.models.transformer",
    "mtfrun.mtf",
    "mtfrun.mtf.initializers",
    "mtfrun.optim",
    "mtfrun.ported",
    "mtfrun.rundir.warm_start",
    "mtfrun.training",
)
# gin's own, by the only name that gin gives it.
_BUILTIN = ("gin.macro", "gin.constant", "gin.singleton")
_DYNAMIC_REGISTRATION = "__gin__.dynamic_registration"
_RECORD = re.compile(rf"^# .*{FLAG}=([\w.,]+)$", re.MULTILINE)


class _Unlisted(NamedTuple):
    """Something that a configuration names and that is not allowed.

    place: the statement's.
    text: what it does: "imports subprocess".
    module: the module that would have to be allowed.
    """

    place: str
    text: str
    module: str


def check_foreign(statements: Statements, allowed: Sequence[str], trained_with: str) -> None:
    """Raises ConfigError if a configuration names what it may not; until then nothing is imported.

    Args:
      statements: those of the files, included ones too, as they were parsed.
      allowed: prefixes of modules that may be imported and used besides.
      trained_with: the text of the run's configuration, which says what the run was trained with.
    """
    unlisted = list(_unlisted_imports(statements, allowed))
    if not unlisted:
        _check_registration(statements)
        unlisted = list(_unlisted_references(statements, allowed))
    if not unlisted:
        return
    place, text, _ = unlisted[0]
    modules = dict.fromkeys([*allowed, *(item.module for item in unlisted)])
    recorded = _RECORD.search(trained_with)
    training = f"with {FLAG}={recorded[1]}" if recorded else "with mtfrun alone"
    raise ConfigError(
        f"{place}: the run's configuration {text}: with that it can run any code; if you trust "
        f"it, allow it with {FLAG}={','.join(modules)} (the run says that it was trained "
        f"{training})"
    )


def with_record(text: str, allowed: Sequence[str]) -> str:
    """Returns a configuration with a comment at the top: the modules that it needs besides mtfrun.

    Args:
      text: a configuration that is trusted: its modules are imported.
      allowed: modules that are recorded in any case.
    """
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
    """Yields the imports that are not allowed, without carrying out any."""
    for statement, place, _ in _all(statements):
        if isinstance(statement, config_parser.ImportStatement) and not _is_gins(statement):
            if not _is_within(statement.module, (*_OWN, *allowed)):
                yield _Unlisted(place, f"imports {statement.module}", statement.module)


def _unlisted_references(statements: Statements, allowed: Sequence[str]) -> Iterator[_Unlisted]:
    """Yields the uses of objects that are not allowed; all imports are, and are carried out."""
    published = _published()
    for file in statements.files:
        modules: dict[str, ModuleType] = {}
        for entry in file:
            if isinstance(entry.statement, config_parser.ImportStatement):
                if not _is_gins(entry.statement):
                    modules[entry.statement.bound_name()] = _imported(entry, statements.imports)
            for selector in _selectors(entry):
                for found in _followed(selector, modules):
                    module = _unlisted_module(found, published, allowed)
                    if module is not None:
                        yield _Unlisted(entry.place, f"uses {selector} of {module}", module)
                        break


def _check_registration(statements: Statements) -> None:
    """Raises ConfigError where gin would take a name for whatever any module has registered."""
    for file in statements.files:
        is_on = False
        for entry in file:
            is_on = is_on or _is_gins(entry.statement)
            if not is_on and any(_selectors(entry)):
                raise ConfigError(
                    f"{entry.place}: a run's configuration begins with "
                    "`from __gin__ import dynamic_registration`"
                )


def _selectors(entry: SourceStatement) -> Iterator[str]:
    """Yields the names that a statement uses, other than gin's own."""
    statement = entry.statement
    selectors = [reference.selector for reference in entry.references]
    if isinstance(statement, config_parser.BlockDeclaration):
        selectors.append(statement.selector)
    elif isinstance(statement, config_parser.BindingStatement) and statement.arg_name:
        selectors.append(statement.selector)
    yield from (selector for selector in selectors if selector not in _BUILTIN)


def _imported(entry: SourceStatement, imports: Mapping[str, str]) -> ModuleType:
    """Imports the module of a statement, which is allowed; returns what its name stands for."""
    statement = entry.statement
    try:
        module = importlib.import_module(statement.module)
    except ImportError as error:
        raise explain(error, imports, entry.place) or error from None
    if statement.is_from or statement.alias:
        return module
    return importlib.import_module(statement.bound_name())


def _followed(selector: str, modules: Mapping[str, ModuleType]) -> Iterator[object]:
    """Yields what a name leads through and to, as gin does: attribute by attribute.

    An object is asked for its attributes after it was yielded. The end is early where there is no
    such attribute: gin says so.
    """
    first, *attributes = selector.split(".")
    found: Any = modules.get(first)
    for attribute in attributes:
        if found is None:
            return
        yield found
        found = getattr(found, attribute, None)
    if found is not None:
        yield found


def _unlisted_module(found: object, published: set[int], allowed: Sequence[str]) -> str | None:
    """Returns the module of an object that is not allowed, None of another one."""
    if isinstance(found, ModuleType):
        name, prefixes = found.__name__, (*_OWN, *allowed)
    elif id(found) in published:
        return None
    else:
        name, prefixes = str(getattr(found, "__module__", None) or "builtins"), (*allowed,)
    return None if _is_within(name, prefixes) else name


def _published() -> set[int]:
    """Returns the identities of what mtfrun has for configurations."""
    modules = map(importlib.import_module, _PUBLISHING)
    return {id(getattr(module, name)) for module in modules for name in exported_names(module)}


def _all(statements: Statements) -> Iterator[SourceStatement]:
    for file in statements.files:
        yield from file


def _is_gins(statement: Any) -> bool:
    """Returns whether a statement is the one that has gin resolve names by the file's imports."""
    return (
        isinstance(statement, config_parser.ImportStatement)
        and statement.is_from
        and statement.module == _DYNAMIC_REGISTRATION
    )


def _is_within(module: str, prefixes: Sequence[str]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)
