"""A sweep: rows and a grid of settings, trained with several seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import MACRO, replace_macros, value_text
from mtfrun.configuration.statements import Statements, macros_of, values_of_macros
from mtfrun.errors import InputError, did_you_mean
from mtfrun.errors.checks import POSITIVE, Range, check_range
from mtfrun.errors.differences import changes, list_changes
from mtfrun.errors.untrusted import LARGEST_TEXT, parse_json, read_regular
from mtfrun.errors.url_secrets import mask_json, mask_urls
from mtfrun.files import atomic_write
from mtfrun.files.errors import reason

NAME = "sweep.json"
"""The file in the directory of a sweep that records it."""

RESULTS = "results"
"""The directory of results in the directory of a sweep."""

LINES = ".jsonl"
"""A file with this suffix has a sweep in its first line, and a result in each other line."""

SEED = "SEED"

GIN_FILES = "gin_files"
"""What a row names its files by."""

SEED_FIELD = "{SEED}"
"""Stands for the seed in a text, such as the path of another sweep's run."""

# Of the name of a directory: Linux allows 255 bytes.
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
    seed: int | None  # None where the gin files say it
    gin_files: Sequence[str]
    values: Mapping[str, str]  # the bindings of the row and the grid, as gin writes them
    baseline: str | None = None  # the row that `row` is compared to; None without one

    @property
    def bindings(self) -> dict[str, str]:
        """The values, and the seed."""
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
    # the values of the macro SEED; empty where the gin files say it
    seeds: Sequence[int] = dataclasses.field(default_factory=list)
    metric: str | None = None  # metric that tables compare; None for the loss
    # the row that differences are taken to: a name in `rows`, or a row with its values of the grid
    baseline: str | None = None
    max_minutes: float | None = None  # minutes until a run is stopped; None for no limit
    # the ranges of settings that `--search` chooses values from, as gin writes them
    search: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, place: pathlib.Path) -> Sweep | None:
        """Returns the sweep that a directory, or a file of lines, records; None without one."""
        path = place if place.suffix == LINES else place / NAME
        try:
            fields = parse_json(
                read_lines(path)[0]
                if path == place
                else read_regular(path, LARGEST_TEXT, follows_links=False)
            )
            rows = {name: SweepRow(**row) for name, row in fields.pop("rows").items()}
            sweep = cls(**fields, rows=rows)
            sweep._check_types()
            sweep.check()
            return sweep
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(
                f"{path} is not a record of a sweep ({reason(error)}): name another --model_dir"
            ) from error

    def write(self, place: pathlib.Path) -> None:
        fields = mask_json(dataclasses.asdict(self))
        if place.suffix != LINES:
            atomic_write(place / NAME, json.dumps(fields, indent=1) + "\n")
            return
        results = read_lines(place)[1:] if place.exists() else []
        write_lines(place, [json.dumps(fields).encode(), *results])

    def _check_types(self) -> None:
        """Raises InputError for a record that this program has not written."""
        mappings = [self.bindings, self.search, *(row.bindings for row in self.rows.values())]
        lists = [self.gin_files, *self.grid.values(), *(r.gin_files for r in self.rows.values())]
        lists += [list(mapping.values()) for mapping in mappings]
        lists.append([self.name, self.question, self.metric or "", self.baseline or ""])
        if not all(type(x) is list and all(type(text) is str for text in x) for x in lists):
            raise InputError("a value is not a text")
        if type(self.seeds) is not list or not all(type(seed) is int for seed in self.seeds):
            raise InputError("a seed is not a number")

    @property
    def varies(self) -> bool:
        """Whether it has runs besides a search's."""
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

    def continue_with(self, command: Sweep, directory: pathlib.Path) -> Sweep:
        """Returns the sweep with the command's further rows, alternatives and seeds.

        The metric, the baseline and the budget are the command's.
        """
        differing = changes(self._comparable(command), command._comparable(self))
        if differing:
            raise InputError(
                f"{directory} has the sweep of another command: {list_changes(differing)}; give "
                "that command, or name another --model_dir"
            )
        grid = {  # in the order of the first command, which the names of runs have
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
        """Has the rows that `other` has too."""
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
        """Returns the runs that a command names of a sweep that may have more."""
        wanted = [(run.gin_files, run.values, run.seed) for run in command.runs()]
        return [run for run in self.runs() if (run.gin_files, run.values, run.seed) in wanted]

    def check_macros(self, search_paths: Sequence[str]) -> None:
        """Raises InputError, before any run starts, if no gin file has a macro of a row or grid."""
        for name, row in {"": SweepRow(), **self.rows}.items():
            statements = _statements([*self.gin_files, *row.gin_files], search_paths)
            references = (r for binding in statements.bindings for r in binding.references())
            macros = {*macros_of(statements.bindings), *(r.macro for r in references if r.macro)}
            for macro in [*row.bindings, *self.grid, *[SEED] * bool(self.seeds), *self.search]:
                if "." not in macro and macro not in macros:
                    where = f"row {name!r}: {macro}" if macro in row.bindings else f"--gin.{macro}"
                    hint = did_you_mean(macro, [*macros, *[GIN_FILES] * bool(row.bindings)])
                    raise InputError(f"{where}: no gin file has this macro{hint}")

    def configuration_hash(self, run: SweepRun, search_paths: Sequence[str]) -> str:
        """Returns the SHA-256 of the settings of a run, wherever its files are."""
        statements = _statements([*self.gin_files, *run.gin_files], search_paths)
        for name, value in {**self.bindings, **run.bindings}.items():
            statements.add_flag(f"--gin.{name}={value}", f"{name} = {value}")
        macros = values_of_macros(statements.bindings)
        settings = {
            binding.name: value_text(replace_macros(binding.value, macros))
            for binding in statements.bindings
            if binding.selector != MACRO
        }
        text = json.dumps([sorted(settings.items()), sorted(statements.imports.items())])
        return hashlib.sha256(mask_urls(text).encode()).hexdigest()


def read_lines(path: pathlib.Path) -> list[bytes]:
    return read_regular(path, LARGEST_TEXT, follows_links=False).splitlines()


def write_lines(path: pathlib.Path, lines: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(f"{line.decode()}\n" for line in lines))


def _statements(files: Sequence[str], search_paths: Sequence[str]) -> Statements:
    statements = Statements()
    for file in files:
        statements.add_file(file, search_paths)
    return statements


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
