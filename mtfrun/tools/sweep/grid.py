from __future__ import annotations

import dataclasses
import io
import itertools
import json
import pathlib
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence

from mtfrun.configuration.gin_values import value_text
from mtfrun.configuration.statements import Statements, macros_of
from mtfrun.differences import changes, list_changes
from mtfrun.errors import ConfigError, InputError, did_you_mean
from mtfrun.rundir import atomic_write
from mtfrun.rundir.errors import reason
from mtfrun.untrusted import read_json

NAME = "sweep.json"
"""The file in the directory of a sweep with its grid."""

_OPENING, _CLOSING = "([{", ")]}"
# Of the name of a directory: Linux allows 255 bytes.
_LONGEST_NAME = 120
_IN_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclasses.dataclass(frozen=True)
class GridRun:
    name: str
    values: dict[str, str]

    @property
    def flags(self) -> list[str]:
        return [f"--gin.{name}={value}" for name, value in self.values.items()]


@dataclasses.dataclass(frozen=True)
class Grid:
    """The gin files and settings that all runs share, and the alternatives, as gin writes them.

    A sweep has it in its directory, which says whether a command continues the sweep.
    """

    files: Sequence[str]
    fixed: Mapping[str, str]
    varied: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, files: Sequence[str], bindings: Iterable[tuple[str, str]]) -> Grid:
        """Parses pairs of a flag and its gin binding "NAME = values"."""
        fixed: dict[str, str] = {}
        varied: dict[str, list[str]] = {}
        for flag, text in bindings:
            name, _, values = (part.strip() for part in text.partition("="))
            checked = [_check_value(flag, name, x, values) for x in alternatives(flag, values)]
            repeated = next((value for value in checked if checked.count(value) > 1), None)
            if repeated is not None:
                raise InputError(f"{flag}: {repeated} is there twice")
            if name in varied or (name in fixed and len(checked) > 1):
                raise InputError(
                    f"--gin.{name} is given twice: give all its alternatives in one flag"
                )
            if len(checked) == 1:
                fixed[name] = checked[0]
            else:
                varied[name] = checked
        if not varied:
            raise InputError(
                "nothing varies: give a flag several values, as in --gin.LEARNING_RATE=0.01,0.03 "
                "(a list in brackets is one value)"
            )
        return cls(list(files), fixed, varied)

    @classmethod
    def read(cls, directory: pathlib.Path) -> Grid | None:
        """Returns the grid of the sweep in a directory, None without one."""
        path = directory / NAME
        try:
            grid = cls(**read_json(path))
            grid._check()
            return grid
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path} is not a record of a sweep ({reason(error)}): name another --model_dir"
            ) from error

    def _check(self) -> None:
        texts = [self.files, self.fixed, self.varied]
        if list(map(type, texts)) != [list, dict, dict]:
            raise InputError("it has other fields")
        lists = [self.files, [*self.fixed.values()], *self.varied.values()]
        if not all(type(x) is list and all(type(text) is str for text in x) for x in lists):
            raise InputError("a value is not a text")

    def write(self, directory: pathlib.Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write(directory / NAME, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def continue_with(self, command: Grid, directory: pathlib.Path) -> Grid:
        """Returns the grid of the sweep and the command, which may add alternatives."""
        differing = changes(self._comparable(), command._comparable())
        if differing:
            raise InputError(
                f"{directory} has the sweep of another command: {list_changes(differing)}; give "
                "that command, or name another --model_dir"
            )
        varied = {  # in the order of the first command, which the names of runs have
            name: list(dict.fromkeys([*values, *command.varied[name]]))
            for name, values in self.varied.items()
        }
        return dataclasses.replace(self, varied=varied)

    def _comparable(self) -> dict[str, str]:
        files, varied = ", ".join(self.files), ", ".join(sorted(self.varied))
        return {**self.fixed, "gin files": files, "varied": varied}

    def runs(self, order: Iterable[str] | None = None) -> list[GridRun]:
        """Returns all combinations; the last parameter, in `order`, changes fastest."""
        names = list(order or self.varied)
        runs: dict[str, GridRun] = {}
        for combination in itertools.product(*(self.varied[name] for name in names)):
            values = dict(zip(names, combination, strict=True))
            name = _run_name(values)
            number = 2
            while name in runs:  # texts that differ in punctuation only
                name = f"{_run_name(values)}-{number}"
                number += 1
            runs[name] = GridRun(name, values)
        return list(runs.values())

    def check_macros(self, search_paths: Sequence[str]) -> None:
        """Raises InputError, before any run starts, if no gin file has a varied macro."""
        statements = Statements()
        for file in self.files:
            statements.add_file(file, search_paths)
        references = (r for binding in statements.bindings for r in binding.references())
        macros = {*macros_of(statements.bindings), *(r.macro for r in references if r.macro)}
        for name in self.varied:
            if "." not in name and name not in macros:
                raise InputError(
                    f"--gin.{name}: no gin file has this macro{did_you_mean(name, macros)}"
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
