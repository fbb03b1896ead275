"""A sweep: rows and a grid of settings, trained with several seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.checks import check_macros
from mtfrun.configuration.gin_values import MACRO, replace_macros, value_text
from mtfrun.configuration.statements import Binding, read_statements, values_of_macros
from mtfrun.configuration.value_types import check_value
from mtfrun.errors import InputError, did_you_mean
from mtfrun.errors.checks import POSITIVE, Range, check_range
from mtfrun.errors.differences import changes, list_changes
from mtfrun.errors.untrusted import parse_json
from mtfrun.errors.url_secrets import mask_json, mask_urls

RESULTS = "results"
"""The directory of results in the directory of a sweep."""

SEED = "SEED"

GIN_FILES = "gin_files"
"""The key of the gin files in a row."""

SEED_FIELD = "{SEED}"
"""Stands for the seed in a text, such as the path of another sweep's run."""

# The longest name of a directory; Linux allows 255 bytes.
_LONGEST_NAME = 120
_IN_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")
_MOST_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """The gin files and the bindings, as gin writes them, that one row adds."""

    gin_files: Sequence[str] = dataclasses.field(default_factory=list)
    bindings: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """A run of a sweep."""

    name: str  # name of the directory
    row: str  # name that the runs of all seeds share: a row's name, values of the grid, or both
    seed: int | None  # None if the gin files set it
    gin_files: Sequence[str]
    values: Mapping[str, str]  # the bindings of the row and the grid, as gin writes them
    baseline: str | None = None  # the row that `row` is compared to; None without one

    @property
    def bindings(self) -> dict[str, str]:
        """The values and the seed."""
        return {**self.values, **({} if self.seed is None else {SEED: str(self.seed)})}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepTitle:
    name: str = ""  # the name of the sweep file; "" without a file
    question: str = ""  # the first sentence of its header


@dataclasses.dataclass(frozen=True)
class Sweep(SweepTitle):
    """What a sweep trains: every row with every combination of the grid and every seed."""

    gin_files: Sequence[str]
    # bindings of all runs, in gin. "{SEED}" in them, and in the rows' and the grid's, stands for
    # the seed.
    bindings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # rows by name; without any, the grid alone makes the rows
    rows: Mapping[str, SweepRow] = dataclasses.field(default_factory=dict)
    # the alternatives of each setting, as gin writes them
    grid: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    # the values of the macro SEED; empty if the gin files set it
    seeds: Sequence[int] = dataclasses.field(default_factory=list)
    metric: str | None = None  # metric that tables compare; None for the loss
    # the row that others are compared to: a name in `rows`, or a row with its values of the grid
    baseline: str | None = None
    max_minutes: float | None = None  # minutes until a run is stopped; None for no limit
    # the ranges of settings that `--search` chooses values from, as gin writes them
    search: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes, place: str) -> Sweep:
        """Raises one of several errors if the record was not written by this program."""
        fields = parse_json(content)
        rows = fields.pop("rows")
        check_fields(cls, fields, place)
        for row in rows.values():
            check_fields(SweepRow, row, place)
        rows = {name: SweepRow(**row) for name, row in rows.items()}
        sweep = cls(**fields, rows=rows)
        sweep.check()
        return sweep

    @property
    def varies(self) -> bool:
        """Whether it has runs besides those of a search."""
        return bool(self.rows or self.grid or (len(self.seeds) > 1 and not self.search))

    def check(self) -> None:
        """Raises InputError for a sweep that cannot be trained."""
        if not (self.varies or self.search):
            raise InputError(
                "nothing varies: give a flag several values, as in --gin.LEARNING_RATE=0.01,0.03 "
                "(a list in brackets is one value), --seeds=3, or a --sweep_file with rows"
            )
        check_range("Sweep.max_minutes", self.max_minutes, POSITIVE, optional=True)
        check_range("the number of seeds", len(self.seeds), Range(0, _MOST_SEEDS))
        names = list(dict.fromkeys([*self.rows, *(run.row for run in self.runs())]))
        if self.baseline is not None and self.baseline not in names:
            hint = did_you_mean(self.baseline, names) or f"; there are {', '.join(names)}"
            raise InputError(f"Sweep.baseline = {self.baseline!r}: no row has this name{hint}")

    def without_search(self) -> Sweep:
        if self.search and not self.varies:
            raise InputError("the sweep file has only ranges of a search: give --search=20 as well")
        return dataclasses.replace(self, search={})

    def only_search(self) -> Sweep:
        """Returns the sweep without rows, grid and baseline."""
        if not self.search:
            raise InputError(
                "--search needs ranges in a --sweep_file: Sweep.search = "
                '{"LEARNING_RATE": ("log", 0.005, 0.2)}'
            )
        return dataclasses.replace(self, rows={}, grid={}, baseline=None)

    def continue_with(self, command: Sweep, place: object) -> Sweep:
        """Returns the sweep with the command's further rows, alternatives and seeds.

        The metric, the baseline and the budget are the command's.
        """
        differing = changes(self._comparable(command), command._comparable(self))
        if differing:
            raise InputError(
                f"{place} has the sweep of another command: {list_changes(differing)}; give "
                "that command, or name another --model_dir"
            )
        grid = {  # in the order of the first command, as in the names of runs
            name: list({mask_urls(text): text for text in [*values, *command.grid[name]]}.values())
            for name, values in self.grid.items()
        }
        rows = {**self.rows, **command.rows}
        seeds = sorted({*self.seeds, *command.seeds})
        name, question = command.name or self.name, command.question or self.question
        return dataclasses.replace(
            command, rows=rows, grid=grid, seeds=seeds, name=name, question=question
        )

    def _comparable(self, other: Sweep) -> dict[str, Any]:
        """Returns what both must have in common, and the rows that `other` has too."""
        rows = {
            f"row {name}": mask_json({"gin files": ", ".join(row.gin_files), **row.bindings})
            for name, row in self.rows.items()
            if name in other.rows
        }
        return {
            **mask_json(dict(self.bindings)),
            "gin files": ", ".join(self.gin_files),
            "varied": ", ".join(sorted(self.grid)),
            "rows": "given" if self.rows else None,
            "seeds": "given" if self.seeds else None,
            **{f"search of {name}": text for name, text in self.search.items()},
            **rows,
        }

    def runs(self) -> list[SweepRun]:
        """Returns all runs; the seed changes fastest, then the last setting of the grid."""
        runs: list[SweepRun] = []
        baselines = set(self.rows) & {self.baseline}
        # Texts that differ in punctuation only get numbers.
        rows, names = set[str](), {RESULTS}
        seeds: Sequence[int | None] = self.seeds or [None]
        seeded = {name: text for name, text in self.bindings.items() if SEED_FIELD in text}
        combinations = itertools.product(*self.grid.values())
        for row, combination in itertools.product(self.rows or [""], combinations):
            values = dict(zip(self.grid, combination, strict=True))
            added = self.rows.get(row, SweepRow())
            shown = _choose_name(_join_values([row] * bool(row), values), rows)
            compared = _join_values([*baselines], values) if baselines else self.baseline
            bound = {**seeded, **added.bindings, **values}
            for seed in seeds:
                bindings = dict(bound)
                if seed is not None:
                    bindings = {n: x.replace(SEED_FIELD, str(seed)) for n, x in bound.items()}
                name = _plain_name([_plain(row).lstrip(".")] * bool(row), values, seed)
                name = _choose_name(name, names)
                runs.append(SweepRun(name, shown, seed, added.gin_files, bindings, compared))
        return runs

    def runs_of(self, command: Sweep) -> list[SweepRun]:
        """Returns the runs of this sweep that a command names."""
        wanted = [(run.gin_files, run.values, run.seed) for run in command.runs()]
        return [run for run in self.runs() if (run.gin_files, run.values, run.seed) in wanted]

    def settings(self, run: SweepRun) -> tuple[list[str], dict[str, str]]:
        """Returns the gin files and the bindings of a run."""
        return [*self.gin_files, *run.gin_files], {**self.bindings, **run.bindings}

    def configuration_hash(self, run: SweepRun, search_paths: Sequence[str]) -> str:
        """Returns the SHA-256 of the settings of a run, wherever its files are.

        ConfigError for a macro that no gin file uses.
        """
        files, bindings = self.settings(run)
        flags = [(f"--gin.{name}={text}", f"{name} = {text}") for name, text in bindings.items()]
        statements = read_statements(files, flags, search_paths)
        check_macros(statements.bindings)
        macros = values_of_macros(statements.bindings)
        settings = {
            binding.name: value_text(replace_macros(binding.value, macros))
            for binding in statements.bindings
            if binding.selector != MACRO
        }
        text = json.dumps([sorted(settings.items()), sorted(statements.imports.items())])
        return hashlib.sha256(mask_urls(text).encode()).hexdigest()


def check_fields(record: type, fields: Mapping[str, Any], place: str) -> None:
    """Raises ConfigError for a value that is not of the type of its field."""
    for name, value in fields.items():
        check_value(Binding("", record.__name__, name, value, place, from_flag=False), record, {})


def _choose_name(name: str, used: set[str]) -> str:
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    unused = next(x for x in itertools.chain([name], numbered) if x not in used)
    used.add(unused)
    return unused


def _join_values(names: Sequence[str], values: Mapping[str, str]) -> str:
    parts = [*names, *(f"{name}={_bare(value)}" for name, value in values.items())]
    return ",".join(parts) or "all"


def _plain_name(names: Sequence[str], values: Mapping[str, str], seed: int | None) -> str:
    parts = [*names, *(f"{_plain(name)}={_plain(value)}" for name, value in values.items())]
    last = [] if seed is None else [f"{SEED}={seed}"]
    name = ",".join([*parts, *last])
    if len(name) <= _LONGEST_NAME:
        return name
    most = max(4, (_LONGEST_NAME - len(last) * 12) // len(parts) - 1)
    return ",".join([*(part[:most] for part in parts), *last])


def _bare(text: str) -> str:
    return mask_urls(text).strip("@'\"()[] ")


def _plain(text: str) -> str:
    return _IN_NAMES.sub("-", _bare(text)).strip("-") or "empty"
