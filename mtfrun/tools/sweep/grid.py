from __future__ import annotations

import dataclasses
import io
import itertools
import re
import tokenize
from collections.abc import Iterable, Sequence

from mtfrun.configuration.errors import ConfigError
from mtfrun.configuration.gin_values import value_text
from mtfrun.configuration.statements import Statements, macros_of
from mtfrun.errors import InputError, did_you_mean

_OPENING, _CLOSING = "([{", ")]}"
# Of the name of a directory: Linux allows 255 bytes.
_LONGEST_NAME = 120
_IN_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclasses.dataclass(frozen=True)
class Varied:
    """A parameter or macro with its alternatives, as gin writes them, without repetition."""

    name: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class GridRun:
    name: str
    values: dict[str, str]

    @property
    def flags(self) -> list[str]:
        return [f"--gin.{name}={value}" for name, value in self.values.items()]


@dataclasses.dataclass(frozen=True)
class Grid:
    """The settings that all runs share, as (name, value) pairs, and the alternatives, in order."""

    fixed: tuple[tuple[str, str], ...]
    varied: tuple[Varied, ...]

    @classmethod
    def of(cls, bindings: Iterable[tuple[str, str]]) -> Grid:
        """Parses pairs of a flag and its gin binding "NAME = values"."""
        fixed: list[tuple[str, str]] = []
        varied: list[Varied] = []
        for flag, text in bindings:
            name, _, values = (part.strip() for part in text.partition("="))
            texts = alternatives(flag, values)
            checked = [_check_value(flag, name, value, values) for value in texts]
            if len(checked) == 1:
                fixed.append((name, checked[0]))
                continue
            repeated = next((value for value in checked if checked.count(value) > 1), None)
            if repeated is not None:
                raise InputError(f"{flag}: {repeated} is there twice")
            varied.append(Varied(name, tuple(checked)))
        names = [v.name for v in varied]
        for name in names:
            if names.count(name) > 1 or name in dict(fixed):
                raise InputError(
                    f"--gin.{name} is given twice: give all its alternatives in one flag"
                )
        if not varied:
            raise InputError(
                "nothing varies: give a flag several values, as in --gin.LEARNING_RATE=0.01,0.03 "
                "(a list in brackets is one value)"
            )
        return cls(tuple(fixed), tuple(varied))

    def reorder(self, names: Iterable[str]) -> Grid:
        by_name = {v.name: v for v in self.varied}
        return dataclasses.replace(self, varied=tuple(by_name[name] for name in names))

    def runs(self) -> list[GridRun]:
        """Returns all combinations; the last parameter changes fastest."""
        names = [v.name for v in self.varied]
        combinations = itertools.product(*(v.values for v in self.varied))
        runs: dict[str, GridRun] = {}
        for combination in combinations:
            values = dict(zip(names, combination, strict=True))
            name = _run_name(values)
            number = 2
            while name in runs:  # texts that differ in punctuation only
                name = f"{_run_name(values)}-{number}"
                number += 1
            runs[name] = GridRun(name, values)
        return list(runs.values())

    def check_macros(self, files: Sequence[str], search_paths: Sequence[str]) -> None:
        """Raises InputError, before any run starts, if no gin file has a varied macro."""
        statements = Statements()
        for file in files:
            statements.add_file(file, search_paths)
        references = (r for binding in statements.bindings for r in binding.references())
        macros = {*macros_of(statements.bindings), *(r.macro for r in references if r.macro)}
        for varied in self.varied:
            if "." not in varied.name and varied.name not in macros:
                raise InputError(
                    f"--gin.{varied.name}: no gin file has this macro"
                    f"{did_you_mean(varied.name, macros)}"
                )


def alternatives(flag: str, text: str) -> list[str]:
    """Returns the texts between the commas outside of brackets and quotes, by Python's tokens.

    >>> alternatives("--gin.X", "0.01,0.03"), alternatives("--gin.X", "[1,2],'a,b'")
    (['0.01', '0.03'], ['[1,2]', "'a,b'"])
    """
    depth, commas = 0, []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.ERRORTOKEN and token.string in ("'", '"'):
                raise SyntaxError("a quote is left open")  # as Python 3.12 does
            if token.type == tokenize.OP:
                depth += (token.string in _OPENING) - (token.string in _CLOSING)
                if token.string == "," and depth == 0:
                    commas.append(token.start[1])
    except (tokenize.TokenError, SyntaxError):
        raise InputError(f"{flag}: a bracket or a quote is left open") from None
    starts = [0, *(comma + 1 for comma in commas)]
    texts = [text[i:j].strip() for i, j in zip(starts, [*commas, len(text)], strict=True)]
    if not all(texts):
        raise InputError(
            f"{flag}: nothing stands beside a comma: alternatives are 0.01,0.03; one value that is "
            "a list or tuple stands in brackets"
        )
    return texts


def _check_value(flag: str, name: str, value: str, text: str) -> str:
    """Returns a value as gin writes it: equal ones are equal texts."""
    statements = Statements()
    try:
        statements.add_flag(flag, f"{name} = {value}")
    except ConfigError:
        if text == value:
            raise
        raise InputError(
            f"{flag}: a comma separates alternatives, of which {value} is not a gin value; one "
            f"text needs quotes within quotes: --gin.{name}=\"'{text}'\""
        ) from None
    return value_text(statements.bindings[0].value)


def _run_name(values: dict[str, str]) -> str:
    parts = [f"{_plain(name)}={_plain(value)}" for name, value in values.items()]
    name = ",".join(parts)
    if len(name) <= _LONGEST_NAME:
        return name
    most = max(4, _LONGEST_NAME // len(parts) - 1)
    return ",".join(part[:most] for part in parts)


def _plain(text: str) -> str:
    return _IN_NAMES.sub("-", text.strip("@'\"()[] ")).strip("-") or "empty"
