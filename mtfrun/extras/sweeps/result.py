"""The result of one run of a sweep: a small JSON file that can be committed."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import LARGEST_TEXT, is_directory, parse_json, read_regular
from mtfrun.errors.url_secrets import mask_json
from mtfrun.extras.sweeps.sweep import LINES, NAME, RESULTS, Sweep, read_lines, write_lines
from mtfrun.files import atomic_write
from mtfrun.files.errors import run_dir_errors
from mtfrun.rundir import RunCost
from mtfrun.rundir.run_record import numbers_as_json, numbers_from_json

_DAMAGE = (ValueError, TypeError, KeyError, AttributeError)
_REMEDY = "remove it, and sweep again"

ResultState = Literal["finished", "stopped", "failed", "killed", "missing"]


@dataclasses.dataclass(frozen=True)
class RunName:
    """Which run of a sweep it is."""

    name: str  # name of the run and its directory, such as "SwiGLU,SEED=1"
    row: str  # name that the runs of all seeds share, such as "SwiGLU" or "LEARNING_RATE=0.03"
    seed: int
    # the bindings of the row and the grid by name, as gin writes them, without the seed
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class RunResult(RunName, RunCost):
    """How a run of a sweep ended, its metrics and its cost."""

    state: ResultState  # "finished"; else `error` says why in one line
    error: str = ""
    step: int = 0
    # the last evaluation's, by name; NaN where not finite
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # step and metric of every evaluation
    evaluations: Mapping[int, float] = dataclasses.field(default_factory=dict)
    configuration: str = ""  # the SHA-256 of the settings that determine the result
    # versions, processor and git commit, for a person to read
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        for name in ("metrics", "evaluations"):
            fields[name] = numbers_as_json(fields[name])
        return dict(mask_json(fields))

    def write(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(self.as_json(), indent=1) + "\n")

    @classmethod
    def read(cls, path: pathlib.Path) -> RunResult:
        with run_dir_errors(f"{path} is not the result of a run", _REMEDY):
            content = read_regular(path, LARGEST_TEXT, follows_links=False)
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: bytes, place: str) -> RunResult:
        with run_dir_errors(f"{place} is not the result of a run", _REMEDY, *_DAMAGE):
            fields = parse_json(content)
            numbers = {name: numbers_from_json(fields[name]) for name in ("metrics", "evaluations")}
            steps = {int(step): value for step, value in numbers["evaluations"].items()}
            result = cls(**{**fields, **numbers, "evaluations": steps})
            if result.state not in get_args(ResultState) or type(result.seed) is not int:
                raise InputError("its state or seed is invalid")
            texts = [result.name, result.row, result.error, *result.environment.values()]
            if not all(type(text) is str for text in texts) or not result.is_valid():
                raise InputError("a text or a cost is invalid")
            return result


class Results:
    """The results of a sweep.

    Args:
      place: a directory with a file for each run, or a file of lines.
    """

    def __init__(self, place: pathlib.Path) -> None:
        self._place = place
        self._is_file = place.suffix == LINES

    def read(self) -> dict[str, RunResult]:
        """Returns the results by the names of their runs."""
        if self._is_file:
            lines = read_lines(self._place)[1:] if self._place.exists() else []
            results = [
                RunResult.parse(line, f"{self._place}, line {number},")
                for number, line in enumerate(lines, 2)
            ]
            return {result.name: result for result in results}
        files = {file.stem: file for file in sorted(self._place.glob("*.json"))}
        return {name: RunResult.read(file) for name, file in files.items() if file.name != NAME}

    def get(self, name: str) -> RunResult | None:
        if self._is_file:
            return self.read().get(name)
        path = self._place / f"{name}.json"
        return RunResult.read(path) if path.exists() else None

    def write(self, result: RunResult) -> None:
        if not self._is_file:
            result.write(self._place / f"{result.name}.json")
            return
        results = {**self.read(), result.name: result}
        (sweep,) = read_lines(self._place)[:1]
        lines = [json.dumps(x.as_json()).encode() for _, x in sorted(results.items())]
        write_lines(self._place, [sweep, *lines])


def results_of(directory: str | os.PathLike[str]) -> tuple[Sweep, list[RunResult]]:
    """Reads the directory of a sweep, or what --results names: a directory, or a file of lines.

    Returns the sweep and the results of its runs in the sweep's order; "missing" ones too.
    """
    path = pathlib.Path(directory)
    sweep = Sweep.read(path)
    if sweep is None:
        raise InputError(f"{path} has no {NAME}: name the directory of a sweep, or of its results")
    by_name = Results(path / RESULTS if is_directory(path / RESULTS) else path).read()
    results = []
    for run in sweep.runs() if sweep.varies else []:
        missing = RunResult(run.name, run.row, run.seed or 0, run.values, "missing", "not trained")
        results.append(by_name.pop(run.name, missing))
    return sweep, [*results, *by_name.values()]
