"""Reads a sweep from a gin file that binds `Sweep`, and from flags."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtfrun.configuration.files import read_header
from mtfrun.configuration.gin_values import value_text, with_reference_texts
from mtfrun.configuration.statements import Binding, Statements, read_statements
from mtfrun.configuration.value_types import check_value
from mtfrun.errors import ConfigError, InputError, did_you_mean
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.extras.sweeps.sweep import GIN_FILES, SEED, Sweep, SweepRow, check_fields


@dataclasses.dataclass
class _Parameters:
    """The parameters of `Sweep` in a file."""

    gin_files: Sequence[str]
    bindings: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]
    grid: Mapping[str, Sequence[Any]]
    seeds: int
    metric: str | None
    baseline: str | None
    max_minutes: float | None
    search: Mapping[str, Any]


def read_sweep_file(name: str, paths: Sequence[str]) -> Sweep:
    """Returns the sweep of a gin file; its baseline and what varies are not checked yet."""
    statements = read_statements([name], [], paths)
    names = [field.name for field in dataclasses.fields(_Parameters)]
    fields: dict[str, Any] = {}
    for binding in statements.bindings:
        if binding.selector != "Sweep" or binding.scope:
            raise ConfigError(
                f"{binding.place}: a sweep file binds parameters of Sweep only: write "
                f'Sweep.bindings = {{"{binding.name}": {binding.value_text}}}'
            )
        if binding.parameter not in names:
            hint = did_you_mean(binding.parameter, names) or f"; it has {', '.join(names)}"
            raise ConfigError(
                f"{binding.place}: Sweep has no parameter {binding.parameter!r}{hint}"
            )
        texts = dataclasses.replace(binding, value=with_reference_texts(binding.value))
        check_value(texts, _Parameters, {})
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
        name, values = alternatives(flag, text)
        _check_repeated(flag, values)
        if name in varied or (name in fixed and len(values) > 1):
            raise InputError(f"--gin.{name} is given twice: give all its alternatives in one flag")
        row = next((row for row, x in sweep.rows.items() if name in x.bindings), None)
        if row is not None or name in sweep.grid:
            where = "grid" if row is None else f"row {row!r}"
            raise InputError(f"{flag}: the sweep file's {where} sets {name}: change it there")
        if len(values) == 1:
            fixed[name] = values[0]
        else:
            varied[name] = values
    shared = {name: value for name, value in sweep.bindings.items() if name not in varied}
    added = dataclasses.replace(
        sweep,
        gin_files=[*sweep.gin_files, *files],
        bindings={**shared, **fixed},
        grid={**sweep.grid, **varied},
    )
    return _with_seeds(added, f"--gin.{SEED}")


def alternatives(flag: str, text: str) -> tuple[str, list[str]]:
    """Returns the name and the values, as gin writes them, of "NAME = values".

    Commas outside of brackets and quotes separate values.

    >>> alternatives("--gin.X", "X = 0.01,0.03"), alternatives("--gin.X", "X = [1,2],'a,b'")
    (('X', ['0.01', '0.03']), ('X', ['[1, 2]', "'a,b'"]))
    """
    name, _, values = text.partition("=")
    statements = Statements()
    statements.add_flag(flag, f"{name} = [{values}]")
    (binding,) = statements.bindings
    if not binding.value or values.rstrip().endswith(","):
        raise InputError(
            f"{flag}: nothing stands beside a comma: alternatives are 0.01,0.03; one value that is "
            "a list or tuple stands in brackets"
        )
    return binding.name, list(map(value_text, binding.value))


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


def _read(binding: Binding) -> Any:
    name, value, place = binding.parameter, binding.value, binding.place
    if name in ("bindings", "search"):
        return _texts(place, value)
    if name == "rows":
        return {str(row): _read_row(place, str(row), settings) for row, settings in value.items()}
    if name == "grid":
        return {setting: _read_values(place, setting, values) for setting, values in value.items()}
    if name == "seeds":
        check_range(f"{place}: Sweep.seeds", value, COUNT)
        return list(range(value))
    return value


def _read_row(place: str, name: str, row: Mapping[str, Any]) -> SweepRow:
    if not (name.strip() and name.isprintable()):
        raise ConfigError(f"{place}: {name!r} is not a name: write letters and digits")
    settings: dict[str, Any] = {GIN_FILES: [], **row}
    files = with_reference_texts(settings.pop(GIN_FILES))
    check_fields(SweepRow, {GIN_FILES: files}, f"{place}: row {name!r}")
    return SweepRow(files, _texts(place, settings))


def _read_values(place: str, setting: str, values: Sequence[Any]) -> list[str]:
    texts = [_texts(place, {setting: value})[setting] for value in values]
    if not texts:
        raise ConfigError(f"{place}: {setting} has no values: write them, or leave it out")
    _check_repeated(f"{place}: {setting}", texts)
    return texts


def _check_repeated(place: str, values: Sequence[str]) -> None:
    repeated = next((value for value in values if values.count(value) > 1), None)
    if repeated is not None:
        raise ConfigError(f"{place}: {repeated} is there twice")


def _texts(place: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns values as gin writes them; ConfigError unless each name can be bound."""
    texts = {name: value_text(value) for name, value in settings.items()}
    for name, text in texts.items():
        try:
            Statements().add_flag(place, f"{name} = {text}")
        except ConfigError:
            raise ConfigError(
                f"{place}: {name!r} is not the name of a setting, such as TRAIN_STEPS or "
                "FeedForward.d_ff"
            ) from None
    return texts
