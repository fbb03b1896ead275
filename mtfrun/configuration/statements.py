"""The statements of gin files and flags with their places, which gin does not keep."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from gin import config_parser
from mtfrun.configuration.config_error import ConfigError
from mtfrun.configuration.files import SHIPPED, require_gin_file
from mtfrun.configuration.spelling import better_flag

MACRO = "gin.macro"

# Values of a deeper nesting exceed what Python's own functions for copying and printing can do.
_MAX_DEPTH = 64
# Strings that follow each other are one string; gin's parser is quadratic in their number.
_MOST_STRINGS = 1000
# gin parses a file as often as it is included: n files that include the next one twice are 2^n.
_MOST_FILES = 500
_MOST_INCLUDED = 64
_MOST_BYTES = 1 << 20
# TensorFlow, numpy and JSON readers have no larger integers.
_INTEGERS = range(-(2**63), 2**63)
# Other languages' names of Python's constants.
_PYTHON_NAMES = {"true": "True", "false": "False", "null": "None", "none": "None", "nil": "None"}


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/selector` in a value, `@scope/selector()` if called, or `%NAME`: a MACRO.

    Attributes:
      scopes: the scopes before the selector; of a macro its name.
      selector: the name of the class or function, or MACRO.
      called: whether the value is the result of a call.
    """

    scopes: tuple[str, ...]
    selector: str
    called: bool = True


@dataclasses.dataclass(frozen=True)
class Binding:
    """`scope/selector.parameter = value`; of `NAME = value` the selector is MACRO, scope NAME.

    Attributes:
      scope: "a/b", or "".
      selector: the name of the class or function, or MACRO.
      parameter: the name of the parameter; "value" of a macro.
      value: a Python literal, in which References stand for references.
      place: "models/lm_small.gin:12", or the flag.
      from_flag: whether the binding is a flag's.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    place: str
    from_flag: bool

    @property
    def name(self) -> str:
        """The left side of the binding, as the user writes it."""
        if self.selector == MACRO:
            return self.scope
        return f"{self.scope}/" * bool(self.scope) + f"{self.selector}.{self.parameter}"

    def references(self) -> Iterator[Reference]:
        """Yields all references in the value."""
        yield from _references(self.value)

    def num_parts(self) -> int:
        """Returns the number of values in the value, itself and references included."""
        return _num_parts(self.value)

    @property
    def value_text(self) -> str:
        """The right side of the binding."""
        return value_text(self.value)


class SourceStatement(NamedTuple):
    """A statement of a file.

    Attributes:
      statement: what gin's parser returns.
      place: "models/lm_small.gin:12".
      references: all references in it.
    """

    statement: Any
    place: str
    references: Sequence[Reference]


class SourceFile(NamedTuple):
    """A gin file that was read.

    Attributes:
      path: where it lies.
      text: its content.
    """

    path: Path
    text: str

    def open(self) -> IO[str]:
        """Returns the text as an open file; gin's errors name the path."""
        return _NamedText(self.text, self.path)


class _NamedText(io.StringIO):
    """A text in memory with the name of its file."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self.name = str(path)


@dataclasses.dataclass
class Statements:
    """All statements of files and flags.

    Attributes:
      bindings: in the order in which they take effect.
      imports: module by the name it has in gin files.
      files: the statements of each file, without `include`; the names that a file imports are known
        in that file only.
      sources: what was read, by the name under which a file was asked for. Each name is looked up
        and read once.
    """

    bindings: list[Binding] = dataclasses.field(default_factory=list)
    imports: dict[str, str] = dataclasses.field(default_factory=dict)
    files: list[list[SourceStatement]] = dataclasses.field(default_factory=list)
    sources: dict[str, SourceFile] = dataclasses.field(default_factory=dict)

    def add_file(
        self, name: str, search_paths: Sequence[str], including: tuple[Path, ...] = ()
    ) -> None:
        """Reads a file and the files that it includes.

        Args:
          name: of the file, which is searched for as `require_gin_file` says.
          search_paths: directories.
          including: the files by way of which this one is included.

        Raises:
          ConfigError: a syntax error, a file that does not exist or includes itself, or too many.
        """
        source = self._source(name, search_paths)
        if source.path in including:
            raise ConfigError(f"gin file {short_path(source.path)} includes itself")
        if len(including) > _MOST_INCLUDED:
            raise ConfigError(
                f"gin file {short_path(source.path)} is included by way of more than "
                f"{_MOST_INCLUDED} others"
            )
        if len(self.files) >= _MOST_FILES:
            raise ConfigError(
                f"gin file {short_path(source.path)} is one of more than {_MOST_FILES} that are "
                "included: put their statements into one"
            )
        statements: list[SourceStatement] = []
        self.files.append(statements)
        for entry in _parse(source.open(), short_path(source.path)):
            if isinstance(entry.statement, config_parser.IncludeStatement):
                included = entry.statement.filename
                try:
                    self._source(included, search_paths)
                except ConfigError as error:
                    raise ConfigError(f"{entry.place}: {error}") from None
                self.add_file(included, search_paths, (*including, source.path))
            else:
                statements.append(entry)
                self._add(entry, from_flag=False)

    def _source(self, name: str, search_paths: Sequence[str]) -> SourceFile:
        """Returns a file of a name.

        Raises:
          ConfigError: it does not exist, is not UTF-8, or is too large.
        """
        if name not in self.sources:
            path = require_gin_file(name, search_paths)
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise ConfigError(f"{short_path(path)} is no gin file: it is larger than 1 MiB")
            try:
                text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
                self.sources[name] = SourceFile(path, text)
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{short_path(path)} is no gin file: it is not UTF-8 ({error.reason}); "
                    "--gin_file names a text such as runs/quickstart.gin"
                ) from None
        return self.sources[name]

    def add_flag(self, flag: str, text: str) -> None:
        """Reads the binding of a flag.

        Raises:
          ConfigError: a syntax error, or a text that is not one binding.
        """
        entries = list(_parse(text, flag))
        if len(entries) != 1 or not isinstance(
            entries[0].statement, config_parser.BindingStatement
        ):
            raise ConfigError(f'{shortened(flag)}: not one binding "NAME = value"')
        self._add(entries[0]._replace(place=flag), from_flag=True)

    def add_text(self, text: str) -> None:
        """Reads a configuration that gin has written."""
        self.files.append(list(_parse(text, "configuration")))
        for entry in self.files[-1]:
            self._add(entry._replace(place="configuration"), from_flag=False)

    def add_shipped_file(self, name: str) -> None:
        """Reads a file of the package, without the files that it includes."""
        source = SourceFile(SHIPPED / name, Path(SHIPPED, name).read_text("utf-8"))
        for entry in _parse(source.open(), name):
            self._add(entry, from_flag=False)

    def _add(self, entry: SourceStatement, *, from_flag: bool) -> None:
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


def value_text(value: Any, macros: Mapping[str, Binding] | None = None) -> str:
    """Returns a value as gin writes it, with the values of macros in their place if given."""
    if isinstance(value, Reference):
        if value.selector == MACRO:
            macro = (macros or {}).get(value.scopes[-1])
            return f"%{value.scopes[-1]}" if macro is None else value_text(macro.value, macros)
        return "@" + "/".join([*value.scopes, value.selector]) + "()" * value.called
    if isinstance(value, dict):
        items = [f"{value_text(k, macros)}: {value_text(v, macros)}" for k, v in value.items()]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(value_text(item, macros) for item in value) + "]"
    if isinstance(value, tuple):
        items = [value_text(item, macros) for item in value]
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    return repr(value)


def short_path(path: str | os.PathLike[str]) -> str:
    """Returns a path as a user would write it: relative, or by its name in the package."""
    if Path(path).is_relative_to(SHIPPED):
        return str(Path(path).relative_to(SHIPPED))
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def shortened(flag: str) -> str:
    """Returns a flag as errors show it."""
    return flag if len(flag) <= 200 else f"{flag[:200]}..."


class _Parser(config_parser.ConfigParser):  # type: ignore[misc]
    """gin's parser, which refuses long rows of strings."""

    _strings = 0

    def _advance_one_token(self) -> None:
        super()._advance_one_token()
        is_string = self._current_token.type == tokenize.STRING
        self._strings = self._strings + 1 if is_string else 0
        if self._strings > _MOST_STRINGS:
            self._raise_syntax_error(f"More than {_MOST_STRINGS} strings in a row")

    def _parse_dict_item(self) -> tuple[Any, Any]:
        key, value = super()._parse_dict_item()
        try:
            hash(key)
        except TypeError:
            self._raise_syntax_error(f"{key!r} cannot be a key")
        return key, value


class _Delegate(config_parser.ParserDelegate):  # type: ignore[misc]
    """Makes References, without looking anything up, and lists them with their lines.

    The value of a statement may lack some: a dictionary with a key twice has the second value only.
    """

    def __init__(self, text: Any) -> None:
        self.references: list[tuple[int, Reference]] = []
        self.parser = _Parser(text, self)

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
    for statement, start, end in zip(statements, starts, ends, strict=False):
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
        raise _too_deep(shortened(source)) from None
    except SyntaxError as error:
        # gin appends the error of Python's parser in further lines; where a token is no Python
        # constant, its whole message is that error.
        message = " ".join(str(error.msg).split("\n")[0].split())
        if "Failed to parse token" in error.msg:
            message = "not a gin value"
        hint = _constant_hint(error.msg)
        if is_flag:
            raise ConfigError(
                f"{shortened(source)}: not a gin value{_value_hint(source) or hint}"
            ) from None
        line = shortened((error.text or "").strip())
        text = f"{message.rstrip('.')}: {line}{hint}"
        raise ConfigError(f"{source}:{error.lineno}: {text}") from None
    except UnicodeEncodeError:  # by Python 3.12 and newer
        raise ConfigError(f"{shortened(source)}: it has bytes that are not UTF-8") from None
    except tokenize.TokenError as error:
        if "too many nested" in str(error):  # Python 3.12 and newer count brackets
            raise _too_deep(shortened(source)) from None
        if is_flag:
            raise ConfigError(
                f"{shortened(source)}: not a gin value{_value_hint(source)}"
            ) from None
        message, (line, _) = error.args
        raise ConfigError(f"{source}:{line}: {message} (is a bracket left open?)") from None


def _too_deep(place: str) -> ConfigError:
    return ConfigError(f"{place}: a value is nested more than {_MAX_DEPTH} deep")


def _check_value(value: Any, place: str) -> None:
    """Raises ConfigError where a value is nested too deeply or holds too large an integer."""
    items = [value]
    for _ in range(_MAX_DEPTH):
        if not items:
            return
        for item in items:
            if isinstance(item, int) and item not in _INTEGERS:
                # Python refuses to write more than 4300 digits in decimals, for their time.
                digits = str(item) if item.bit_length() < 10_000 else hex(item)
                raise ConfigError(f"{place}: an integer does not fit 64 bits: {shortened(digits)}")
        items = [part for item in items for part in _parts(item)]
    if items:
        raise _too_deep(place)


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list | tuple) else ()


def _constant_hint(message: str) -> str:
    """Returns a hint on the constant at which gin's parser failed, "" if it knows none."""
    if "integer string conversion" in message:
        return ": an integer does not fit 64 bits"
    token = re.search(r"Failed to parse token '(\w+)'", message)
    name = _PYTHON_NAMES.get(token[1].lower()) if token else None
    return f": write {name}, as in Python, for {token[1]}" if token and name else ""


def _value_hint(flag: str) -> str:
    """Returns how the value of a flag is written, as far as that can be guessed."""
    better = better_flag(flag) if len(flag) <= 200 else None
    if better is None and "=" not in flag.partition("=")[2] and flag.startswith("--gin_"):
        return ': write "NAME = value"'
    if better is None:
        return " (is a bracket or a quote left open?)" if re.search(r"[\[({'\"]", flag) else ""
    return f": values are written as in Python, in quotes for the shell: {better}"


def _num_parts(value: Any) -> int:
    return 1 + sum(map(_num_parts, _parts(value)))


def _references(value: Any) -> Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    for part in _parts(value):
        yield from _references(part)
