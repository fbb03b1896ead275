from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import gin
from mtfrun.configuration import gin_values
from mtfrun.configuration.checks import check_bindings, target_of
from mtfrun.configuration.errors import one_line, without_gin
from mtfrun.configuration.gin_errors import explain_call, explain_missing, explained
from mtfrun.configuration.published import module_names, public_names, shown_name
from mtfrun.configuration.run_files import CONFIG, relocations
from mtfrun.configuration.statements import (
    Binding,
    SourceFile,
    Statements,
    bindings_in,
    macros_of,
    read_statements,
    short_path,
    values_of_macros,
)
from mtfrun.configuration.untrusted_configuration import check_untrusted, name_modules
from mtfrun.errors import InputError
from mtfrun.errors.url_secrets import mask_urls

T = TypeVar("T")

# The module that gin files import for the classes that the program calls.
_EXPERIMENT = "mtfrun.experiment"

# The files of the configuration by name. gin parses these texts, which were checked, and opens no
# file itself: a file that is replaced after the check has no effect. gin asks its readers in order.
_sources: dict[str, SourceFile] = {}
gin.config._FILE_READERS.insert(0, (lambda name: _sources[name].open(), _sources.__contains__))

# `check_bindings` reports missing values instead, and only where something uses them.
gin.config._FINALIZE_HOOKS.remove(gin.config.find_missing_overrides_hook)


# gin's values by parameter, by the scope and the selector of their class or function.
_gin_values: dict[tuple[str, str], dict[str, Any]] = gin.config._CONFIG

# The bindings of the user's files and flags, in order.
_bindings: list[Binding] = []

# gin has one configuration in a process.
_lock = threading.RLock()


def exclusive() -> contextlib.AbstractContextManager[object]:
    """Returns a lock to hold from `parse`, which replaces the configuration, until all is built."""
    return _lock


def parse(
    files: Sequence[str],
    flags: Sequence[tuple[str, str]],
    *,
    search_paths: Sequence[str] = (),
    roots: Sequence[type],
    allowed_imports: Sequence[str] | None = None,
    modules: Sequence[str] = (),
) -> list[Binding]:
    """Replaces gin's configuration by files and flags and returns their bindings, in that order.

    `flags` are pairs of a flag, for messages, and its binding; `roots` the classes that the program
    calls; `modules` are imported, and flags may name their contents. Files from a run directory may
    import mtfrun and modules with a prefix in `allowed_imports`; None is for the user's files,
    which are code.

    Raises:
      ConfigError: one line, with the place and the nearest valid name.
    """
    gin.clear_config()
    untrusted = None if allowed_imports is None else files[0]
    statements = read_statements(files, flags, search_paths, untrusted)
    # Not for directories from elsewhere: importing an optional package would run their files.
    if (allowed_imports is None or allowed_imports or modules) and "" not in sys.path:
        directory = str(Path.cwd())
        sys.path += [directory] * (directory not in sys.path)
    if allowed_imports is not None and untrusted is not None:
        check_untrusted(statements, allowed_imports, statements.sources[untrusted].text)
    _sources.clear()
    _sources.update(statements.sources)
    for name in files:
        with explained(statements.imports):
            gin.parse_config_file(name)
    for root in roots:
        parent, _, module = _EXPERIMENT.rpartition(".")
        _register(f"from {parent} import {module}", f"{module}.{root.__name__}")
    for module in modules:
        with explained(statements.imports, f"--module_import={module}"):
            importlib.import_module(module)
        statements.imports.setdefault(module, module)
    # Flags may name classes that no file imports.
    imports = module_names() | statements.imports
    names = public_names(imports) | public_names(statements.imports)
    for flag, text in statements.flags:
        named = [binding for binding in statements.bindings if binding.place == flag]
        _register_named(named, names)
        with explained(imports, flag):
            gin.parse_config(_import_other_names(named, names) + text)
    used = check_bindings(statements.bindings, [gin.get_configurable(root) for root in roots])
    with explained(statements.imports):
        gin.finalize()
    _remove_unused(used)
    _relocate(statements, files)
    _bindings[:] = statements.bindings
    for arguments in _gin_values.values():
        arguments.update(
            {name: gin_values.bind_functions(value) for name, value in arguments.items()}
        )
    return statements.bindings


def _relocate(statements: Statements, files: Sequence[str]) -> None:
    sources = [statements.sources[name].path for name in files]
    runs = {short_path(path): path.absolute().parent for path in sources if path.name == CONFIG}
    functions = relocations(statements.bindings, runs)
    last = {
        (binding.scope, target_of(binding.selector), binding.parameter): number
        for number, binding in enumerate(statements.bindings)
    }
    for (scope, selector), arguments in _gin_values.items():
        for name, value in arguments.items():
            number = last.get((scope, target_of(selector), name), -1)
            if number not in functions:
                continue
            arguments[name] = functions[number](value)
            binding = statements.bindings[number]
            if not any(binding.references()):
                statements.bindings[number] = dataclasses.replace(binding, value=arguments[name])


def build(cls: Callable[..., T], *args: Any) -> T:
    try:
        return cast(T, gin.get_configurable(cls)(*args))
    except InputError as error:
        place = _place_of(error)
        if place is None:
            raise
        raise without_gin(type(error))(f"{place}: {one_line(error)}") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:
        explanation = explain_missing(error) or explain_call(error)
        if explanation is None:
            raise
        raise explanation from error


def _place_of(error: InputError) -> str | None:
    """Returns the flag or line that set the value of an error; None if unclear or already named."""
    text, call, caller = str(error).partition("In call to configurable '")
    macros = macros_of(_bindings)
    for binding in reversed(_bindings):
        name = binding.selector.rpartition(".")[2]
        if not call or caller.partition("'")[0].rpartition(".")[2] != name:
            continue
        source = binding.source(macros)
        if source.place not in text and _is_named(source.value, binding.parameter, text):
            return source.place
    return None


def _is_named(value: object, parameter: str, text: str) -> bool:
    if isinstance(value, str):
        return any(len(part) > 2 and part in text for part in re.split(r"[;,\s]+", value))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and parameter in text and str(value) in re.findall(r"[\d.eE+-]*\d", text)


def argument(cls: Callable[..., object], name: str, default: object = None) -> Any:
    value = gin.get_bindings(cls, resolve_references=False).get(name, default)
    try:
        return copy.deepcopy(value)  # so gin evaluates references
    except TypeError as error:
        missing = explain_missing(error)
        if missing is None:
            raise
        raise missing from None


def override(cls: type, **arguments: object) -> None:
    """Sets arguments of a class of mtfrun without the checks of `parse`."""
    target = shown_name(cls)
    module = target.partition(".")[0]
    lines = [
        f"{target}.{name} = {gin_values.value_text(value)}" for name, value in arguments.items()
    ]
    with gin.unlock_config():
        gin.parse_config(
            f"from __gin__ import dynamic_registration\nfrom mtfrun import {module}\n"
            + "\n".join(lines)
        )


def config_text(allowed_imports: Sequence[str] = ()) -> str:
    """Returns one gin file without includes; its first line names the modules besides mtfrun's.

    Passwords in URLs are masked, see url_secrets.py.
    """
    return name_modules(mask_urls(gin.config_str(max_line_length=100)), allowed_imports)


def operative_config_text() -> str:
    """Returns the arguments of all classes and functions that were called, defaults included."""
    return mask_urls(gin.operative_config_str(max_line_length=100))


def operative_parameters() -> dict[str, dict[str, Any]]:
    """Returns the arguments of all calls by "scope/module.Class" and the argument's name.

    Macros and functions of numbers, such as `transformer.head_size`, have their values; other
    references are texts, such as "@encoder/transformer.Stack".
    """
    bindings = bindings_in(operative_config_text())
    macros = values_of_macros(bindings)
    parameters: dict[str, dict[str, Any]] = {}
    for binding in bindings:
        if binding.selector != gin_values.MACRO and not _returns_int(binding.selector):
            target = f"{binding.scope}/" * bool(binding.scope) + binding.selector
            value = gin_values.replace_macros(binding.value, macros)
            if (
                isinstance(value, gin_values.Reference)
                and value.called
                and _returns_int(value.selector)
            ):
                with gin.config_scope(list(value.scopes)):
                    value = target_of(value.selector)()
            value = gin_values.with_reference_texts(value)
            parameters.setdefault(target, {})[binding.parameter] = value
    return parameters


def _returns_int(selector: str) -> bool:
    return getattr(target_of(selector), "__annotations__", {}).get("return") in (int, "int")


def _register_named(bindings: Sequence[Binding], names: Mapping[str, tuple[str, str]]) -> None:
    """Registers what a flag's bindings name, as gin does for files only."""
    for binding in bindings:
        selectors = {reference.selector for reference in binding.references()}
        for selector in {binding.selector, *selectors} - {gin_values.MACRO}:
            if selector in names and not _is_known(selector):
                _register(*names[selector])


def _import_other_names(bindings: Sequence[Binding], names: Mapping[str, tuple[str, str]]) -> str:
    """Returns imports for classes that flags name otherwise than the files, or "".

    gin registers a class under one name, and finds it by others only through imports.
    """
    selectors = [binding.selector for binding in bindings]
    if all(_is_known(selector) or selector not in names for selector in selectors):
        return ""
    imports = {names[selector][0] for selector in selectors if selector in names}
    return "\n".join(["from __gin__ import dynamic_registration", *sorted(imports), ""])


def _is_known(selector: str) -> bool:
    with contextlib.suppress(KeyError):  # ambiguous: gin says so when it parses the flag
        try:
            gin.get_configurable(selector)
        except ValueError:
            return False
    return True


def _register(import_statement: str, name: str) -> None:
    # The macro is removed with all other unused bindings.
    gin.parse_config(
        f"from __gin__ import dynamic_registration\n{import_statement}\n_REGISTERED = @{name}"
    )


def _remove_unused(used: set[tuple[str, Any]]) -> None:
    """An unused binding would be an error when config.gin is read again."""
    for scope, selector in list(_gin_values):
        if (scope, target_of(selector)) not in used:
            del _gin_values[scope, selector]
