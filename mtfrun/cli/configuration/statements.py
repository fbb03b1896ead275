"""The statements of gin files and flags with their places, which gin itself forgets."""

from __future__ import annotations

import dataclasses
import os
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

from gin import config_parser
from mtfrun.cli.configuration.files import SHIPPED, require_gin_file
from mtfrun.cli.errors import ConfigError

MACRO = "gin.macro"


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/selector` in a value, `@scope/selector()` where called, or `%NAME`: a MACRO."""

    scopes: tuple[str, ...]
    selector: str
    called: bool = True


@dataclasses.dataclass(frozen=True)
class Binding:
    """`scope/selector.parameter = value`; of `NAME = value` the selector is MACRO, scope NAME.

    Attributes:
      place: "models/lm_small.gin:12", or the flag.
      from_flag: whether it was given on the command line.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    place: str
    from_flag: bool

    @property
    def name(self) -> str:
        """How the user calls it."""
        if self.selector == MACRO:
            return self.scope
        return f"{self.scope}/" * bool(self.scope) + f"{self.selector}.{self.parameter}"

    def references(self) -> Iterator[Reference]:
        """Yields all references in the value."""
        yield from _references(self.value)


@dataclasses.dataclass
class Statements:
    """All bindings in the order in which they take effect; imported modules by their name there."""

    bindings: list[Binding] = dataclasses.field(default_factory=list)
    imports: dict[str, str] = dataclasses.field(default_factory=dict)

    def add_file(
        self, path: str, search_paths: Sequence[str], including: tuple[str, ...] = ()
    ) -> None:
        """Reads a file and what it includes.

        Raises:
          ConfigError: a syntax error, an included file that does not exist or includes itself.
        """
        if path in including:
            raise ConfigError(f"gin file {short_path(path)} includes itself")
        with open(path, encoding="utf-8") as file:
            for statement in _parse(file, short_path(path)):
                if isinstance(statement, config_parser.IncludeStatement):
                    place = f"{short_path(path)}:{statement.location.line_num}"
                    try:
                        included = require_gin_file(statement.filename, search_paths)
                    except ConfigError as error:
                        raise ConfigError(f"{place}: {error}") from None
                    self.add_file(included, search_paths, (*including, path))
                else:
                    self._add(statement, short_path(path), from_flag=False)

    def add_flag(self, flag: str, text: str) -> None:
        """Reads the binding of a flag.

        Raises:
          ConfigError: a syntax error, or something that is no binding.
        """
        statements = list(_parse(text, flag))
        if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
            raise ConfigError(f'{flag}: not one binding "NAME = value"')
        self._add(statements[0], flag, from_flag=True)

    def add_text(self, text: str) -> None:
        """Reads what gin itself has written."""
        for statement in _parse(text, "configuration"):
            self._add(statement, "configuration", from_flag=False)

    def _add(self, statement: Any, source: str, from_flag: bool) -> None:
        if isinstance(statement, config_parser.ImportStatement):
            if not statement.module.startswith("__gin__"):
                is_short = statement.is_from or statement.alias
                name = statement.bound_name() if is_short else statement.module
                self.imports[name] = statement.module
        elif isinstance(statement, config_parser.BindingStatement):
            place = source if from_flag else f"{source}:{statement.location.line_num}"
            scope, selector, parameter = statement.scope, statement.selector, statement.arg_name
            if not parameter:
                scope, selector, parameter = (
                    f"{scope}/{selector}" if scope else selector,
                    MACRO,
                    "value",
                )
            self.bindings.append(
                Binding(scope, selector, parameter, statement.value, place, from_flag)
            )


def short_path(path: str) -> str:
    """Returns a path as the user would give it: relative, or by its name in the package."""
    if path.startswith(SHIPPED + os.sep):
        return os.path.relpath(path, SHIPPED)
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


class _Delegate(config_parser.ParserDelegate):
    """Makes References, without looking anything up."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        *scopes, selector = scoped_configurable_name.split("/")
        return Reference(tuple(scopes), selector, evaluate)

    def macro(self, macro_name: str) -> Reference:
        return Reference((macro_name,), MACRO)


def _parse(text: Any, source: str) -> Iterator[Any]:
    """Yields the statements of a file or a flag."""
    is_flag = isinstance(text, str)
    try:
        yield from config_parser.ConfigParser(text, _Delegate())
    except SyntaxError as error:
        if is_flag:
            raise ConfigError(f"{source}: not a gin value{_quotes_hint(source)}") from None
        # gin adds the parser's own trouble in further lines.
        message = str(error.msg).split("\n")[0].rstrip(".")
        line = (error.text or "").strip()
        raise ConfigError(f"{source}:{error.lineno}: {message}: {line}") from None
    except tokenize.TokenError as error:
        if is_flag:
            raise ConfigError(f"{source}: not a gin value{_quotes_hint(source)}") from None
        message, (line, _) = error.args
        raise ConfigError(f"{source}:{line}: {message} (is a bracket left open?)") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is no gin file: it is not UTF-8 ({error.reason})") from None


def _quotes_hint(flag: str) -> str:
    name, _, value = flag.partition("=")
    return f"; a string needs quotes within quotes: {name}=\"'{value}'\"" if value else ""


def _references(value: Any) -> Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _references(key)
            yield from _references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)
