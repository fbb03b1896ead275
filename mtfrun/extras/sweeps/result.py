"""The result of one run of a sweep: a small JSON file that can be committed."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import LARGEST_TEXT, is_directory, parse_json, read_regular
from mtfrun.errors.url_secrets import mask_json
from mtfrun.extras.sweeps.sweep import LINES, NAME, RESULTS, Sweep, read_lines, write_lines
from mtfrun.files import atomic_write
from mtfrun.files.errors import reason
from mtfrun.rundir import RunCost, StepMetrics
from mtfrun.rundir.run_record import numbers_as_json, numbers_from_json
from mtfrun.rundir.run_summary import RunSummary, summary_of

ResultState = Literal["finished", "stopped", "failed", "killed", "missing"]


@dataclasses.dataclass(frozen=True)
class RunName:
    """Which run of a sweep it is.

    Attributes:
      name: name of the run and its directory, such as "SwiGLU,SEED=1".
      row: name that the runs of all seeds share, such as "SwiGLU" or "LEARNING_RATE=0.03".
      values: the bindings of the row and the grid by name, as gin writes them, without the seed.
    """

    name: str
    row: str
    seed: int
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class RunResult(RunName, RunCost):
    """How a run of a sweep ended, its metrics and its cost.

    Attributes:
      state: "finished"; else `error` says why in one line.
      step: the last step.
      metrics: the last evaluation's, by name; NaN where not finite.
      evaluations: step and metric of every evaluation.
      configuration: the SHA-256 of the settings that determine the result.
      environment: versions, processor and git commit, for a person to read.
    """

    state: ResultState
    error: str = ""
    step: int = 0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    evaluations: Mapping[int, float] = dataclasses.field(default_factory=dict)
    configuration: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        for name in ("metrics", "evaluations"):
            fields[name] = numbers_as_json(fields[name])
        masked: dict[str, Any] = mask_json(fields)
        return masked

    def write(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(self.as_json(), indent=1) + "\n")

    @classmethod
    def read(cls, path: pathlib.Path) -> RunResult:
        try:
            content = read_regular(path, LARGEST_TEXT, follows_links=False)
        except OSError as error:
            raise _not_a_result(str(path), error) from error
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: bytes, place: str) -> RunResult:
        try:
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
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _not_a_result(place, error) from error


def _not_a_result(place: str, error: Exception) -> InputError:
    return InputError(
        f"{place} is not the result of a run ({reason(error)}): remove it, and sweep again"
    )


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


class SweepResults(NamedTuple):
    """A sweep and the results of its runs, which are in the sweep's order; "missing" ones too."""

    sweep: Sweep
    results: Sequence[RunResult]


def summary_of_result(directory: pathlib.Path, result: RunResult, metric: str | None) -> RunSummary:
    """Returns what a run's directory says, and its result where that says more.

    So of a run that was refused before it began, or whose directory is elsewhere. `directory` is
    the sweep's, `metric` the one that `result.evaluations` has.
    """
    summary = summary_of(directory / result.name, result.name)
    if result.state == "missing":
        return dataclasses.replace(summary, config=summary.config or result.values)
    if not summary.has_begun:
        evaluations = [
            StepMetrics(step, {metric or "loss": x}) for step, x in result.evaluations.items()
        ]
        if result.metrics:
            evaluations = [*evaluations[:-1], StepMetrics(result.step, result.metrics)]
        return RunSummary(
            result.name, result.state, result.error, None, result.step, evaluations, result.values
        )
    return summary


def results_of(directory: str | os.PathLike[str]) -> SweepResults:
    """Reads the directory of a sweep, or what --results names: a directory, or a file of lines."""
    path = pathlib.Path(directory)
    sweep = Sweep.read(path)
    if sweep is None:
        raise InputError(f"{path} has no {NAME}: name the directory of a sweep, or of its results")
    by_name = Results(path / RESULTS if is_directory(path / RESULTS) else path).read()
    results = []
    for run in sweep.runs() if sweep.varies else []:
        missing = RunResult(run.name, run.row, run.seed or 0, run.values, "missing", "not trained")
        results.append(by_name.pop(run.name, missing))
    return SweepResults(sweep, [*results, *by_name.values()])
