"""The configuration: gin files and flags, read, checked and written down."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar, cast

import gin
from mtfrun.cli.configuration.checks import check_bindings, target_of
from mtfrun.cli.configuration.errors import explain, explain_missing, public_names
from mtfrun.cli.configuration.files import find_gin_file, require_gin_file
from mtfrun.cli.configuration.foreign import check_foreign, with_record
from mtfrun.cli.configuration.statements import MACRO, Binding, Reference, Statements
from mtfrun.cli.errors import ConfigError
from mtfrun.cli.terminal.quiet import quiet_gin

T = TypeVar("T")

# The module that gin files import for the classes that the program calls.
_EXPERIMENT = "mtfrun.experiment"

_search_paths: list[str] = []


class _Bindings:
    """gin's own bindings; it shows them to hooks only."""

    by_target: dict[tuple[str, str], dict[str, Any]] = {}


@gin.config.register_finalize_hook  # type: ignore[untyped-decorator]
def _remember_bindings(bindings: dict[tuple[str, str], dict[str, Any]]) -> None:
    _Bindings.by_target = bindings


def _open_found(name: str) -> IO[str]:
    return open(require_gin_file(name, _search_paths), encoding="utf-8")


# For `include` statements: gin asks its readers when a file is not in the working directory.
gin.config.register_file_reader(
    _open_found, lambda name: find_gin_file(name, _search_paths) is not None
)


def parse(
    files: Sequence[str],
    flags: Sequence[tuple[str, str]],
    *,
    search_paths: Sequence[str] = (),
    roots: Sequence[type],
    allowed_imports: Sequence[str] | None = None,
) -> list[Binding]:
    """Makes files and flags gin's configuration and returns their bindings, in that order.

    What was there before is gone.

    Args:
      files: names of gin files.
      flags: pairs of a flag, for messages, and the binding that it gives.
      search_paths: directories in which gin files are looked for.
      roots: the classes that the program calls.
      allowed_imports: prefixes of the modules that files from a run directory may import besides
        mtfrun's; None for files that the user names, which are code.

    Raises:
      ConfigError: one line, with the place and the nearest valid name.
    """
    gin.clear_config()
    _search_paths[:] = search_paths
    statements = Statements()
    paths = [require_gin_file(name, search_paths) for name in files]
    for path in paths:
        statements.add_file(path, search_paths)
    for flag, text in flags:
        statements.add_flag(flag, text)
    if allowed_imports is None or allowed_imports:
        _find_modules_of_the_working_directory()
    if allowed_imports is not None:
        check_foreign(statements, allowed_imports, pathlib.Path(paths[0]).read_text("utf-8"))
    for path in paths:
        with _explained(statements.imports), quiet_gin():
            gin.parse_config_file(path)
    for root in roots:
        parent, _, module = _EXPERIMENT.rpartition(".")
        _register(f"from {parent} import {module}", f"{module}.{root.__name__}")
    names = public_names(statements.imports)
    for flag, text in flags:
        _register_named(statements, flag, names)
        with _explained(statements.imports, flag):
            gin.parse_config(text)
    used = check_bindings(statements.bindings, [gin.get_configurable(root) for root in roots])
    with _explained(statements.imports):
        gin.finalize()
    _forget_unused(used)
    return statements.bindings


def configured(cls: Callable[..., T], *args: Any) -> T:
    """Returns `cls(*args)` with all other arguments from the configuration."""
    try:
        return cast(T, gin.get_configurable(cls)(*args))
    except TypeError as error:
        missing = explain_missing(error)
        if missing is None:
            raise
        raise missing from None


def config_text(allowed_imports: Sequence[str] = ()) -> str:
    """Returns the whole configuration as one gin file, includes and flags resolved.

    Its first line says which modules it needs besides mtfrun's, `allowed_imports` among them.
    """
    return with_record(gin.config_str(max_line_length=100), allowed_imports)


def operative_config_text() -> str:
    """Returns the values of everything that was called, defaults included."""
    return str(gin.operative_config_str(max_line_length=100))


def as_markdown(text: str) -> str:
    """Returns a configuration as a Markdown code block."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _find_modules_of_the_working_directory() -> None:
    """Lets gin files import what lies in the working directory, behind what is installed.

    `python -m` does so, a script does not. Only where such a module is wanted: of a directory that
    came from elsewhere Python, looking for an optional package, would run what it finds.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


@contextlib.contextmanager
def _explained(imports: Mapping[str, str], flag: str | None = None) -> Iterator[None]:
    """Turns gin's errors into a ConfigError; exceptions of imported modules pass."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        explained = explain(error, imports, flag)
        if explained is None:
            raise
        raise explained from None


def _register_named(
    statements: Statements, flag: str, names: Mapping[str, tuple[str, str]]
) -> None:
    """Makes known what a flag names, so that flags may refer to what no file refers to.

    gin registers what files mention and lets flags use nothing else.
    """
    for binding in statements.bindings:
        if binding.place != flag:
            continue
        references = [*binding.references(), Reference((), binding.selector)]
        for selector in {reference.selector for reference in references} - {MACRO}:
            if selector in names and not _is_known(selector):
                _register(*names[selector])


def _is_known(selector: str) -> bool:
    try:
        gin.get_configurable(selector)
    except ValueError:
        return False
    except KeyError:
        pass  # ambiguous: gin says so when it parses the flag
    return True


def _register(import_statement: str, name: str) -> None:
    """Makes a class or function known to gin, as a file does that refers to it."""
    # The macro is removed with everything else that nothing uses.
    gin.parse_config(
        f"from __gin__ import dynamic_registration\n{import_statement}\n_REGISTERED = @{name}"
    )


def _forget_unused(used: set[tuple[str, Any]]) -> None:
    """Removes what has no effect because a later binding replaced the reference to it.

    So `config.gin` is about this run alone, and reads back without complaint.
    """
    bindings = _Bindings.by_target
    for scope, selector in list(bindings):
        if (scope, target_of(selector)) not in used:
            del bindings[scope, selector]
