"""The statements of gin files and flags with their places, which gin drops."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from gin import config_parser
from mtfrun.configuration import gin_values
from mtfrun.configuration.files import SHIPPED, require_gin_file
from mtfrun.errors import ConfigError
from mtfrun.errors.untrusted import open_regular

_Item = TypeVar("_Item")

# gin parses a file as often as it is included: n files that include the next twice are 2^n.
_MOST_FILES = 500
_MOST_INCLUDED = 64
_MOST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Binding:
    """`scope/selector.parameter = value`; of `NAME = value` the selector is MACRO, scope NAME.

    `value` is a Python literal with `Reference`s; `place` is "models/lm_small.gin:12", or the flag.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    place: str
    from_flag: bool

    @property
    def name(self) -> str:
        if self.selector == gin_values.MACRO:
            return self.scope
        return f"{self.scope}/" * bool(self.scope) + f"{self.selector}.{self.parameter}"

    def references(self) -> Iterator[gin_values.Reference]:
        yield from gin_values.references_in(self.value)

    @property
    def value_text(self) -> str:
        return gin_values.value_text(self.value)

    def source(self, macros: Mapping[str, Binding]) -> Binding:
        """Returns the binding of the macro that sets the value, or this one."""
        return [self, *macro_chain(self.value, macros)][-1]


class SourceStatement(NamedTuple):
    statement: Any
    place: str
    references: Sequence[gin_values.Reference]


class SourceFile(NamedTuple):
    path: Path
    text: str

    def open(self) -> IO[str]:
        """Returns the text as an open file; gin's errors name the path."""
        file = io.StringIO(self.text)
        vars(file)["name"] = str(self.path)
        return file


@dataclasses.dataclass
class Statements:
    """All statements of files and flags, `bindings` in the order in which they take effect.

    `imports` are by their names in gin files. `files` has statements without `include`, by file,
    since imported names hold in their file only. Each name in `sources` is looked up and read once.
    `untrusted` is the file of a run directory, which must not be a link.
    """

    bindings: list[Binding] = dataclasses.field(default_factory=list)
    imports: dict[str, str] = dataclasses.field(default_factory=dict)
    files: list[list[SourceStatement]] = dataclasses.field(default_factory=list)
    sources: dict[str, SourceFile] = dataclasses.field(default_factory=dict)
    flags: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    untrusted: str | None = None

    def add_file(
        self, name: str, search_paths: Sequence[str], including: tuple[Path, ...] = ()
    ) -> None:
        """Reads a file and the files that it includes; ConfigError also for cycles, or too many."""
        source = self._source(name, search_paths, including)
        if source.path in including:
            raise ConfigError(f"gin file {short_path(source.path)} includes itself")
        what = f"gin file {short_path(source.path)} is included"
        if len(including) > _MOST_INCLUDED:
            raise ConfigError(f"{what} by way of more than {_MOST_INCLUDED} files")
        if len(self.files) >= _MOST_FILES:
            raise ConfigError(f"{what} after {_MOST_FILES} files: put their statements into one")
        statements: list[SourceStatement] = []
        self.files.append(statements)
        for entry in _parse(source.open(), short_path(source.path)):
            if isinstance(entry.statement, config_parser.IncludeStatement):
                included = entry.statement.filename
                try:
                    self._source(included, search_paths, (*including, source.path))
                except ConfigError as error:
                    raise ConfigError(f"{entry.place}: {error}") from None
                self.add_file(included, search_paths, (*including, source.path))
            else:
                statements.append(entry)
                self._add(entry, from_flag=False)

    def find(self, name: str, search_paths: Sequence[str], including: tuple[Path, ...]) -> Path:
        """Returns the path of a file that the last of `including` includes."""
        del including
        return require_gin_file(name, search_paths)

    def _source(
        self, name: str, search_paths: Sequence[str], including: tuple[Path, ...]
    ) -> SourceFile:
        if name not in self.sources:
            path = self.find(name, search_paths, including)
            with open_regular(path, follows_links=name != self.untrusted) as file:
                content = file.read(_MOST_BYTES + 1)
            what = f"{short_path(path)} is not a gin file"
            if len(content) > _MOST_BYTES:
                raise ConfigError(f"{what}: it is larger than 1 MiB")
            if b"\0" in content:
                raise ConfigError(f"{what}: it is binary; {gin_values.A_GIN_FILE}")
            try:
                text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
            except UnicodeDecodeError as error:
                why = f"it is not UTF-8 ({error.reason})"
                raise ConfigError(f"{what}: {why}; {gin_values.A_GIN_FILE}") from None
            self.sources[name] = SourceFile(path, text)
        return self.sources[name]

    def add_flag(self, flag: str, text: str) -> None:
        entries = list(_parse(text, flag))
        if len(entries) != 1 or not isinstance(
            entries[0].statement, config_parser.BindingStatement
        ):
            raise ConfigError(f'{gin_values.shorten_flag(flag)}: not one binding "NAME = value"')
        self._add(entries[0]._replace(place=flag), from_flag=True)
        self.flags.append((flag, text))

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
                name = f"{scope}/{selector}" if scope else selector
                scope, selector, parameter = name, gin_values.MACRO, "value"
            value = statement.value
            self.bindings.append(Binding(scope, selector, parameter, value, place, from_flag))


def read_statements(
    files: Sequence[str],
    flags: Sequence[tuple[str, str]],
    search_paths: Sequence[str] = (),
    untrusted: str | None = None,
) -> Statements:
    """Imports nothing; `flags` are pairs of a flag and its binding."""
    statements = Statements(untrusted=untrusted)
    for name in files:
        statements.add_file(name, search_paths)
    for flag, text in flags:
        statements.add_flag(flag, text)
    return statements


def short_path(path: str | os.PathLike[str]) -> str:
    """Returns a path as a user would write it: relative, or by its name in the package."""
    if Path(path).is_relative_to(SHIPPED):
        return str(Path(path).relative_to(SHIPPED))
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def macro_chain(value: Any, macros: Mapping[str, Binding]) -> list[Binding]:
    """Returns the macros that a value refers to in turn; the last has the value."""
    chain: list[Binding] = []
    while isinstance(value, gin_values.Reference) and value.macro in macros:
        chain.append(macros[value.macro])
        value = chain[-1].value
    return chain


def name_to_override(bindings: Sequence[Binding], parameter: str) -> str:
    """Returns the name to bind for "mtf.Mesh.shape": its macro, as an unused macro is an error."""
    cls, _, name = parameter.rpartition(".")
    for binding in reversed(bindings):
        if binding.parameter == name and last_part(binding.selector) == last_part(cls):
            return binding.source(macros_of(bindings)).name
    return parameter


def macros_of(bindings: Iterable[Binding]) -> dict[str, Binding]:
    return {binding.scope: binding for binding in bindings if binding.selector == gin_values.MACRO}


def values_of_macros(bindings: Iterable[Binding]) -> dict[str, Any]:
    return {name: binding.value for name, binding in macros_of(bindings).items()}


def follow(starts: Iterable[_Item], next_of: Callable[[_Item], Iterable[_Item]]) -> list[_Item]:
    """Returns `starts` and all items that references lead to from them; each once."""
    reached: dict[_Item, None] = {}
    queue = list(starts)
    while queue:
        item = queue.pop()
        if item not in reached:
            reached[item] = None
            queue.extend(next_of(item))
    return list(reached)


# The start of a training reads the same texts several times.
@functools.lru_cache(maxsize=4)
def bindings_in(text: str) -> tuple[Binding, ...]:
    statements = Statements()
    statements.add_text(text)
    return tuple(statements.bindings)


def last_part(selector: str) -> str:
    return selector.rpartition(".")[2]


def _parse(text: Any, source: str) -> Iterator[SourceStatement]:
    """A block yields its declaration and its bindings."""
    statements, references = gin_values.parse_gin(text, source)
    # The parser reads a whole block before it returns the first statement, so that only lines tell
    # which binding a reference belongs to.
    starts = [statement.location.line_num for statement in statements]
    ends = [*starts[1:], sys.maxsize]
    for statement, start, end in zip(statements, starts, ends, strict=False):
        place = gin_values.shorten_flag(source) if isinstance(text, str) else f"{source}:{start}"
        if isinstance(statement, config_parser.BindingStatement):
            gin_values.check_size(statement.value, place)
        statement_references = (r for line, r in references if start <= line < end)
        yield SourceStatement(statement, place, tuple(statement_references))
