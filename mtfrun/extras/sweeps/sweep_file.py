"""Reads a sweep from a gin file that binds `Sweep`, and from flags."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mtfrun.configuration.files import read_header
from mtfrun.configuration.gin_values import value_text
from mtfrun.configuration.statements import Binding, Statements
from mtfrun.errors import ConfigError, InputError, did_you_mean
from mtfrun.extras.sweeps.sweep import GIN_FILES, SEED, Sweep, SweepRow

_OPENING, _CLOSING = "([{", ")]}"


def read_sweep_file(name: str, paths: Sequence[str]) -> Sweep:
    """Returns the sweep of a gin file; its baseline and what varies are not checked yet."""
    statements = Statements()
    statements.add_file(name, paths)
    fields: dict[str, Any] = {}
    for binding in statements.bindings:
        if binding.selector != "Sweep" or binding.scope:
            raise ConfigError(
                f"{binding.place}: a sweep file binds parameters of Sweep only: write "
                f'Sweep.bindings = {{"{binding.name}": {binding.value_text}}}'
            )
        if binding.parameter not in _PARAMETERS:
            names = ", ".join(_PARAMETERS)
            hint = did_you_mean(binding.parameter, _PARAMETERS) or f"; it has {names}"
            raise ConfigError(
                f"{binding.place}: Sweep has no parameter {binding.parameter!r}{hint}"
            )
        fields[binding.parameter] = _read(binding)
    imported = [x for x in statements.imports.values() if x.partition(".")[0] != "mtfrun"]
    if imported:
        raise ConfigError(
            f"{name}: a sweep file imports no modules: import {imported[0]} in a file of "
            f"Sweep.gin_files, or give --module_import={imported[0]}"
        )
    if not fields.get("gin_files"):
        raise ConfigError(f'{name} names no gin file: Sweep.gin_files = ["runs/quickstart.gin"]')
    sweep = Sweep(**fields, name=pathlib.Path(name).stem, question=read_header(name, paths).title)
    return _with_seeds(sweep, name)


def with_flags(sweep: Sweep, files: Sequence[str], bindings: Iterable[tuple[str, str]]) -> Sweep:
    """Adds gin files, and pairs of a flag and its gin binding "NAME = values"."""
    fixed: dict[str, str] = {}
    varied: dict[str, list[str]] = {}
    for flag, text in bindings:
        name, _, values = (part.strip() for part in text.partition("="))
        checked = [_check_value(flag, name, x, values) for x in alternatives(flag, values)]
        _check_repeated(flag, checked)
        if name in varied or (name in fixed and len(checked) > 1):
            raise InputError(f"--gin.{name} is given twice: give all its alternatives in one flag")
        row = next((r for r, of_row in sweep.rows.items() if name in of_row.bindings), None)
        if row is not None or name in sweep.grid:
            where = "grid" if row is None else f"row {row!r}"
            raise InputError(f"{flag}: the sweep file's {where} sets {name}: change it there")
        if len(checked) == 1:
            fixed[name] = checked[0]
        else:
            varied[name] = checked
    shared = {name: value for name, value in sweep.bindings.items() if name not in varied}
    added = dataclasses.replace(
        sweep,
        gin_files=[*sweep.gin_files, *files],
        bindings={**shared, **fixed},
        grid={**sweep.grid, **varied},
    )
    return _with_seeds(added, f"--gin.{SEED}")


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


def _with_seeds(sweep: Sweep, place: str) -> Sweep:
    """Returns the sweep with the alternatives of the macro SEED as its seeds."""
    row = next((name for name, row in sweep.rows.items() if SEED in row.bindings), None)
    if row is not None:
        raise ConfigError(f"{place}: row {row!r} sets {SEED}: write Sweep.seeds = 3 for all rows")
    if SEED not in sweep.grid:
        return sweep
    if sweep.seeds:
        raise ConfigError(f"{place}: the seeds are given twice, by {SEED} and by a number of seeds")
    try:
        seeds = [int(text) for text in sweep.grid[SEED]]
    except ValueError:
        raise ConfigError(f"{place}: {SEED} is a whole number") from None
    grid = {name: values for name, values in sweep.grid.items() if name != SEED}
    return dataclasses.replace(sweep, seeds=seeds, grid=grid)


def _is_texts(value: Any) -> bool:
    return type(value) is list and all(type(text) is str and text for text in value)


def _is_named(value: Any) -> bool:
    return type(value) is dict and all(
        type(key) is str and key.strip() and key.isprintable() for key in value
    )


def _is_rows(value: Any) -> bool:
    return bool(value) and _is_named(value) and all(map(_is_named, value.values()))


def _is_grid(value: Any) -> bool:
    return _is_named(value) and all(type(x) is list and x for x in value.values())


def _is_text(value: Any) -> bool:
    return value is None or (type(value) is str and bool(value))


# By parameter: the values that it takes, in Python, in words, and an example.
_PARAMETERS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "gin_files": (_is_texts, "a list of gin files", '["runs/quickstart.gin"]'),
    "bindings": (_is_named, "a dictionary of settings", '{"TRAIN_STEPS": 500}'),
    "rows": (_is_rows, "a dictionary of rows", '{"baseline": {}, "wide": {"D_FF": 344}}'),
    "grid": (_is_grid, "a dictionary of lists", '{"LEARNING_RATE": [0.01, 0.03]}'),
    "seeds": (lambda x: type(x) is int and x > 0, "a number of at least 1", "3"),
    "metric": (_is_text, "a text", '"loss"'),
    "baseline": (_is_text, "a text", '"baseline"'),
    "max_minutes": (lambda _: True, "a number of minutes", "4"),  # `Sweep.check` checks it
    "search": (_is_named, "a dictionary of ranges", '{"LEARNING_RATE": ("log", 0.005, 0.2)}'),
}


def _read(binding: Binding) -> Any:
    name, value = binding.parameter, binding.value
    is_valid, words, example = _PARAMETERS[name]
    if not is_valid(value):
        raise ConfigError(
            f"{binding.place}: {binding.name} must be {words}, such as {binding.name} = {example}"
        )
    if name in ("bindings", "search"):
        return _texts_of(binding, value)
    if name == "rows":
        return {row: _read_row(binding, row, settings) for row, settings in value.items()}
    if name == "grid":
        texts = {n: [_texts_of(binding, {n: x})[n] for x in values] for n, values in value.items()}
        for setting, values in texts.items():
            _check_repeated(f"{binding.place}: {setting}", values)
        return texts
    return list(range(value)) if name == "seeds" else value


def _read_row(binding: Binding, name: str, row: Mapping[str, Any]) -> SweepRow:
    files = row.get(GIN_FILES, [])
    if not _is_texts(files):
        raise ConfigError(
            f"{binding.place}: row {name!r}: {GIN_FILES} must be a list of gin files: "
            f'"{GIN_FILES}": ["models/x.gin"]'
        )
    settings = {key: value for key, value in row.items() if key != GIN_FILES}
    return SweepRow(files, _texts_of(binding, settings))


def _check_repeated(place: str, values: Sequence[str]) -> None:
    repeated = next((value for value in values if values.count(value) > 1), None)
    if repeated is not None:
        raise ConfigError(f"{place}: {repeated} is there twice")


def _texts_of(binding: Binding, settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns values as gin writes them; ConfigError unless each name can be bound."""
    texts = {name: value_text(value) for name, value in settings.items()}
    for name, text in texts.items():
        try:
            Statements().add_flag(binding.place, f"{name} = {text}")
        except ConfigError:
            raise ConfigError(
                f"{binding.place}: {name!r} is not the name of a setting, such as TRAIN_STEPS or "
                "FeedForward.d_ff"
            ) from None
    return texts
