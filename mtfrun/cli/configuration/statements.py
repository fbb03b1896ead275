"""The statements of gin files and flags with their places, which gin itself forgets."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gin import config_parser
from mtfrun.cli.configuration.files import SHIPPED, require_gin_file
from mtfrun.cli.errors import ConfigError

MACRO = "gin.macro"

# Values of a deeper nesting exceed what Python's own functions for copying and printing can do.
_MAX_DEPTH = 64
# TensorFlow, numpy and JSON readers have no larger integers.
_INTEGERS = range(-(2**63), 2**63)
# What others write for Python's constants.
_PYTHON_NAMES = {"true": "True", "false": "False", "null": "None", "none": "None", "nil": "None"}


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


class SourceStatement(NamedTuple):
    """A statement as gin's parser returns it, its place, and the references that it makes."""

    statement: Any
    place: str
    references: Sequence[Reference]


@dataclasses.dataclass
class Statements:
    """All statements of files and flags.

    bindings: in the order in which they take effect.
    imports: module by the name it has in gin files.
    files: the statements of each file, without `include`; the names that a file imports are known
        in that file only.
    """

    bindings: list[Binding] = dataclasses.field(default_factory=list)
    imports: dict[str, str] = dataclasses.field(default_factory=dict)
    files: list[list[SourceStatement]] = dataclasses.field(default_factory=list)

    def add_file(
        self, path: str, search_paths: Sequence[str], including: tuple[str, ...] = ()
    ) -> None:
        """Reads a file and what it includes.

        Raises:
          ConfigError: a syntax error, an included file that does not exist or includes itself.
        """
        if path in including:
            raise ConfigError(f"gin file {short_path(path)} includes itself")
        statements: list[SourceStatement] = []
        self.files.append(statements)
        with open(path, encoding="utf-8") as file:
            for entry in _parse(file, short_path(path)):
                if isinstance(entry.statement, config_parser.IncludeStatement):
                    try:
                        included = require_gin_file(entry.statement.filename, search_paths)
                    except ConfigError as error:
                        raise ConfigError(f"{entry.place}: {error}") from None
                    self.add_file(included, search_paths, (*including, path))
                else:
                    statements.append(entry)
                    self._add(entry, from_flag=False)

    def add_flag(self, flag: str, text: str) -> None:
        """Reads the binding of a flag.

        Raises:
          ConfigError: a syntax error, or something that is no binding.
        """
        entries = list(_parse(text, flag))
        if len(entries) != 1 or not isinstance(
            entries[0].statement, config_parser.BindingStatement
        ):
            raise ConfigError(f'{shortened(flag)}: not one binding "NAME = value"')
        self._add(entries[0]._replace(place=flag), from_flag=True)

    def add_text(self, text: str) -> None:
        """Reads what gin itself has written."""
        self.files.append(list(_parse(text, "configuration")))
        for entry in self.files[-1]:
            self._add(entry._replace(place="configuration"), from_flag=False)

    def _add(self, entry: SourceStatement, from_flag: bool) -> None:
        statement, place, _ = entry
        if isinstance(statement, config_parser.ImportStatement):
            if not statement.module.startswith("__gin__"):
                is_short = statement.is_from or statement.alias
                name = statement.bound_name() if is_short else statement.module
                self.imports[name] = statement.module
        elif isinstance(statement, config_parser.BindingStatement):
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


def shortened(flag: str) -> str:
    """Returns a flag as errors show it."""
    return flag if len(flag) <= 200 else f"{flag[:200]}..."


class _Delegate(config_parser.ParserDelegate):  # type: ignore[misc]
    """Makes References, without looking anything up, and lists them with their lines.

    The value of a statement may lack some: a dictionary with a key twice has the second value only.
    """

    def __init__(self, text: Any) -> None:
        self.references: list[tuple[int, Reference]] = []
        self.parser = config_parser.ConfigParser(text, self)

    def configurable_reference(
        self,
        scoped_configurable_name: str,
        evaluate: bool,  # noqa: FBT001 - gin's signature
    ) -> Reference:
        *scopes, selector = scoped_configurable_name.split("/")
        reference = Reference(tuple(scopes), selector, evaluate)
        # The token after a reference is on its line, or on a later one of the same statement.
        line, _ = self.parser.current_token.start
        self.references.append((line, reference))
        return reference

    def macro(self, macro_name: str) -> Reference:
        return Reference((macro_name,), MACRO)


def _parse(text: Any, source: str) -> Iterator[SourceStatement]:
    """Yields the statements of an open file or of the text of a flag.

    Those of a block are its declaration and its bindings.
    """
    delegate, statements = _parsed(text, source)
    # The parser reads a whole block before it returns the first statement, so that only lines tell
    # which binding a reference belongs to.
    starts = [statement.location.line_num for statement in statements]
    ends = [*starts[1:], sys.maxsize]
    for statement, start, end in zip(statements, starts, ends, strict=True):
        place = shortened(source) if isinstance(text, str) else f"{source}:{start}"
        if isinstance(statement, config_parser.BindingStatement):
            _check_value(statement.value, place)
        references = (r for line, r in delegate.references if start <= line < end)
        yield SourceStatement(statement, place, tuple(references))


def _parsed(text: Any, source: str) -> tuple[_Delegate, list[Any]]:
    """Returns the statements of a file or a flag as gin's parser returns them.

    Raises:
      ConfigError: a syntax error.
    """
    is_flag = isinstance(text, str)
    try:
        delegate = _Delegate(text)
        return delegate, list(delegate.parser)
    except RecursionError:
        place = shortened(source)
        raise ConfigError(f"{place}: a value is nested more than {_MAX_DEPTH} deep") from None
    except SyntaxError as error:
        # gin appends the error of Python's parser in further lines; where a token is no Python
        # constant, its whole message is that error.
        message = " ".join(str(error.msg).split("\n")[0].split())
        if "Failed to parse token" in error.msg:
            message = "not a gin value"
        hint = _constant_hint(error.msg)
        if is_flag:
            raise ConfigError(
                f"{shortened(source)}: not a gin value{hint or _quotes_hint(source)}"
            ) from None
        line = shortened((error.text or "").strip())
        text = f"{message.rstrip('.')}: {line}{hint}"
        raise ConfigError(f"{source}:{error.lineno}: {text}") from None
    except tokenize.TokenError as error:
        if is_flag:
            raise ConfigError(
                f"{shortened(source)}: not a gin value{_quotes_hint(source)}"
            ) from None
        message, (line, _) = error.args
        raise ConfigError(f"{source}:{line}: {message} (is a bracket left open?)") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is no gin file: it is not UTF-8 ({error.reason})") from None


def _check_value(value: Any, place: str) -> None:
    """Raises ConfigError where a value is nested too deeply or holds too large an integer."""
    items = [value]
    for _ in range(_MAX_DEPTH):
        if not items:
            return
        for item in items:
            if isinstance(item, int) and item not in _INTEGERS:
                raise ConfigError(
                    f"{place}: an integer does not fit 64 bits: {shortened(str(item))}"
                )
        items = [part for item in items for part in _parts(item)]
    if items:
        raise ConfigError(f"{place}: a value is nested more than {_MAX_DEPTH} deep")


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list | tuple) else ()


def _constant_hint(message: str) -> str:
    """Returns what to write for the constant at which gin's parser failed, "" if it is another."""
    if "integer string conversion" in message:
        return ": an integer does not fit 64 bits"
    token = re.search(r"Failed to parse token '(\w+)'", message)
    name = _PYTHON_NAMES.get(token[1].lower()) if token else None
    return f": write {name}, as in Python, for {token[1]}" if token and name else ""


def _quotes_hint(flag: str) -> str:
    name, _, value = flag.partition("=")
    if not value or len(flag) > 200:
        return ""
    return f"; a string needs quotes within quotes: {name}=\"'{value}'\""


def _references(value: Any) -> Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    for part in _parts(value):
        yield from _references(part)
