"""Gin files of other programs, read without importing what they name.

gin itself imports the modules of a file and looks up what it refers to; here references stay texts.
https://github.com/google/gin-config/blob/master/docs/index.md has the syntax.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.untrusted import is_regular, open_regular

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 64
_MAX_FILES = 1000
# Files name what they include relative to a search path, which is a directory above them.
_DIRECTORIES_ABOVE = 4
_CONSTANTS = {"True": True, "False": False, "None": None}
_LAYOUT_TOKENS = (tokenize.NL, tokenize.COMMENT, tokenize.ENCODING, tokenize.ENDMARKER)


class Reference(NamedTuple):
    """`@scope/name`, or `@scope/name()` if the value is the result of a call.

    Attributes:
      name: as the file has it, with its scope and module.
      called: whether it is called.
    """

    name: str
    called: bool

    def __str__(self) -> str:
        return f"@{self.name}" + "()" * self.called


class MacroName(NamedTuple):
    """`%name`."""

    name: str

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Statement:
    """`name = value`.

    Attributes:
      name: "encoder/transformer.make_layer_stack.layers", or that of a macro.
      value: a Python literal, in which references stand for references.
      place: "models/bi_v1.gin:12".
    """

    name: str
    value: Any
    place: str


def read_gin_file(path: Path, search_paths: Sequence[str] = ()) -> Iterator[Statement]:
    """Yields the statements of a file and of the files that it includes, in the order of effect.

    Args:
      path: the file.
      search_paths: where to look for included files before the directories above the file.

    Raises:
      ConversionError: a file is missing, is not a gin file, includes itself or includes too many.
    """
    yield from _read(path, search_paths, (), iter(range(_MAX_FILES)))


def _read(
    path: Path, search_paths: Sequence[str], including: tuple[Path, ...], files: Iterator[int]
) -> Iterator[Statement]:
    if path in including or len(including) > _MAX_DEPTH:
        raise ConversionError(f"{path} includes itself")
    if next(files, None) is None:
        raise ConversionError(f"{including[0]} includes more than {_MAX_FILES} files")
    for tokens, line in _logical_lines(_text(path), path):
        place = f"{path.name}:{line}"
        parser = _Parser(tokens, place)
        first = parser.peek()
        if first in ("import", "from"):
            continue
        if first == "include":
            parser.take()
            name = parser.value()
            if not isinstance(name, str):
                raise ConversionError(f"{place}: include needs the name of a file")
            included = _included(path, name, search_paths, place)
            yield from _read(included, search_paths, (*including, path), files)
            continue
        yield from parser.statements()


def _included(path: Path, name: str, search_paths: Sequence[str], place: str) -> Path:
    """Returns the path of an included file."""
    searched = [Path(directory).expanduser() for directory in search_paths]
    for directory in [*searched, *path.absolute().parents[:_DIRECTORIES_ABOVE]]:
        if is_regular(directory / name):
            return directory / name
    raise ConversionError(
        f"{place}: the included file {name} is in no directory above {path}: put it there, or name"
        " its directory in --gin_search_paths"
    )


def _text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConversionError(f"{path} is larger than {_MAX_BYTES} bytes: no gin file")
        return content.decode("utf-8")
    except OSError as error:
        raise ConversionError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path} is no gin file: it is not UTF-8") from error


def _logical_lines(text: str, path: Path) -> Iterator[tuple[Sequence[tokenize.TokenInfo], int]]:
    """Yields the tokens of every statement, or of every block with its statements, and its line."""
    tokens: list[tokenize.TokenInfo] = []
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in _LAYOUT_TOKENS:
                continue
            if token.type == tokenize.INDENT:
                depth += 1
            elif token.type == tokenize.DEDENT:
                depth -= 1
            else:
                tokens.append(token)
            is_block = len(tokens) > 1 and tokens[-2].string == ":"
            ends = token.type == tokenize.NEWLINE and not depth and not is_block
            if (ends or (token.type == tokenize.DEDENT and not depth)) and tokens:
                yield tokens, tokens[0].start[0]
                tokens = []
    except (tokenize.TokenError, SyntaxError) as error:
        raise ConversionError(f"{path} is no gin file: {error}") from error
    if tokens:
        yield tokens, tokens[0].start[0]


class _Parser:
    """Reads the tokens of a statement, or of a block of them, from left to right."""

    def __init__(self, tokens: Sequence[tokenize.TokenInfo], place: str) -> None:
        self._tokens = [t for t in tokens if t.string not in (";",)]
        self._position = 0
        self._place = place
        self._depth = 0

    def peek(self) -> str:
        """Returns the next token, "" at the end."""
        if self._position == len(self._tokens):
            return ""
        return self._tokens[self._position].string

    def take(self, expected: str | None = None) -> str:
        """Returns the next token and goes on; another one than the expected is an error."""
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise self._error(token, expected)
        self._position += 1
        return token

    def statements(self) -> Iterator[Statement]:
        """Yields `name = value`, or those of a block `name:`."""
        name = self._name()
        if self.peek() == "=":
            self.take()
            yield self._statement(name)
            return
        self.take(":")
        self._end()
        while self.peek():
            parameter = self._name()
            self.take("=")
            yield self._statement(f"{name}.{parameter}")

    def _statement(self, name: str) -> Statement:
        line = self._tokens[self._position - 1].start[0]
        value = self.value()
        self._end()
        return Statement(name, value, f"{self._place.rpartition(':')[0]}:{line}")

    def value(self) -> Any:
        """Returns the next value."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ConversionError(f"{self._place}: a value is nested too deeply")
        try:
            return self._value()
        finally:
            self._depth -= 1

    def _value(self) -> Any:
        token = self.peek()
        if token == "@":
            self.take()
            name = self._name()
            called = self.peek() == "("
            if called:
                self.take("(")
                self.take(")")
            return Reference(name, called)
        if token == "%":
            self.take()
            return MacroName(self._name())
        if token == "[":
            return self._items("[", "]")
        if token == "(":
            return self._tuple()
        if token == "{":
            return self._dictionary()
        return self._literal()

    def _items(self, first: str, last: str) -> list[Any]:
        self.take(first)
        items = []
        while self.peek() != last:
            items.append(self.value())
            if self.peek() != last:
                self.take(",")
        self.take(last)
        return items

    def _tuple(self) -> Any:
        start = self._position
        items = self._items("(", ")")
        has_comma = any(t.string == "," for t in self._tokens[start : self._position])
        return tuple(items) if has_comma or not items else items[0]

    def _dictionary(self) -> dict[Any, Any]:
        self.take("{")
        items = {}
        while self.peek() != "}":
            key = self.value()
            self.take(":")
            try:
                items[key] = self.value()
            except TypeError:
                raise ConversionError(f"{self._place}: {key} is no key of a dictionary") from None
            if self.peek() != "}":
                self.take(",")
        self.take("}")
        return items

    def _literal(self) -> Any:
        token = self.take()
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        text = token
        if token in ("-", "+"):
            text += self.take()
        # Strings one after the other are one string.
        while self.peek()[-1:] in ("'", '"'):
            text += f" {self.take()}"
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError):
            raise self._error(token, "a value") from None

    def _name(self) -> str:
        """Returns a name with dots and slashes: "encoder/transformer.make_layer_stack.layers"."""
        parts = []
        while self.peek() in (".", "/") or self.peek().isidentifier():
            parts.append(self.take())
        if not parts:
            raise self._error(self.peek(), "a name")
        return "".join(parts)

    def _end(self) -> None:
        if self.peek():
            token = self._tokens[self._position]
            if token.type != tokenize.NEWLINE:
                raise self._error(token.string, "the end of the line")
            self._position += 1

    def _error(self, token: str, expected: str | None) -> ConversionError:
        return ConversionError(
            f"{self._place}: not gin: {token.strip() or 'an end'!r} where"
            f" {expected or 'more'} should be"
        )
