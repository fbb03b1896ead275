"""Which runs of a sweep are done, and which are trained or resumed."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from mtfrun.display.formats import metric_text
from mtfrun.display.table import table_lines
from mtfrun.errors import InputError, list_some
from mtfrun.extras.sweeps.result import (
    PRUNED,
    Results,
    RunResult,
    budget_text,
    missing_result,
    result_of,
)
from mtfrun.extras.sweeps.sweep import SEED, Sweep, SweepRun
from mtfrun.rundir import RunRecord, SweptRun
from mtfrun.rundir.run_record import SWEPT
from mtfrun.rundir.run_summary import RunSummary, mark_best, metric_of, summary_of

_SECS_PER_MINUTE = 60.0


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep, its result so far, and whether it is done."""

    number: int  # among all runs, from 1
    run: SweepRun
    directory: pathlib.Path
    result: RunResult
    configuration: str = ""  # the hash of its settings
    is_done: bool = False  # it is not trained any more
    is_new: bool = False  # its result is not written yet
    minutes: float | None = None  # left of its budget; None without a budget

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def has_other_settings(self) -> bool:
        """Whether its settings have changed since its result was written."""
        is_same = self.result.configuration in ("", self.configuration)
        return _has_begun(self.result) and not is_same


@dataclasses.dataclass(frozen=True)
class SweepRecords:
    """A sweep, its runs and results on disk, and where its gin files are searched.

    A result counts if its settings are those that its run would have now, on whichever machine it
    was trained. Runs that failed, were killed or were stopped by a signal are trained again.
    """

    sweep: Sweep
    directory: pathlib.Path
    results: Results
    search_paths: Sequence[str]

    def runs(self, runs: Iterable[SweepRun]) -> list[PlannedRun]:
        results = self.results.read()
        return [self.read_run(i, run, results) for i, run in enumerate(runs, 1)]

    def read_run(self, number: int, run: SweepRun, results: Mapping[str, RunResult]) -> PlannedRun:
        result = results.get(run.name) or missing_result(run)
        configuration = self.sweep.configuration_hash(run, self.search_paths)
        directory = self.directory / run.name
        summary = summary_of(directory, run.name)
        minutes = _minutes_left(self.sweep, summary)
        is_done = _is_done(self.sweep, result)
        # The run ended after the sweep was killed, or was trained by `mtfrun train`.
        is_new = not is_done and (summary.state == "finished" or minutes == 0)
        if is_new:
            result = result_of(self.sweep, run, directory, configuration, None)
        return PlannedRun(
            number, run, directory, result, configuration, is_done or is_new, is_new, minutes
        )

    def continue_from(self, former: Sweep, place: pathlib.Path) -> SweepRecords:
        """Returns these records with the sweep that `place` has, and what this sweep adds to it.

        A row that was refused can be corrected: it may change until one of its runs takes a step.
        """
        results = self.results.read()

        def has_begun(run: SweepRun) -> bool:
            summary = summary_of(self.directory / run.name, run.name)
            is_running = summary.state == "running" or summary.step > 0
            return is_running or (run.name in results and _has_begun(results[run.name]))

        rows = {
            name: row
            for name, row in former.rows.items()
            if self.sweep.rows.get(name, row) == row
            or any(map(has_begun, dataclasses.replace(former, rows={name: row}).runs()))
        }
        former = dataclasses.replace(former, rows=rows or self.sweep.rows)
        return dataclasses.replace(self, sweep=former.continue_with(self.sweep, place))

    def settings_of_rows(self, runs: Sequence[PlannedRun]) -> list[str]:
        """Returns a line for each row that sets something: "wide: D_FF = 512"."""
        settings = {}
        for run in (planned.run for planned in runs if self.sweep.rows):
            values = (f"{name} = {text}" for name, text in run.values.items())
            settings[run.row] = ", ".join([*run.gin_files, *values])
        return [f"{row}: {text}" for row, text in settings.items() if text]

    def metric(self, evaluations: Iterable[Iterable[str]]) -> str:
        """Returns the sweep's metric; InputError if evaluations exist but all lack it."""
        return metric_of(evaluations, self.sweep.metric, "the metric ")

    def equal_rows(self, runs: Iterable[PlannedRun]) -> list[tuple[str, str]]:
        """Returns the pairs of rows with the same settings: their runs would be the same."""
        first: dict[tuple[str, int | None], str] = {}
        pairs = [
            (first.setdefault((x.configuration, x.run.seed), x.run.row), x.run.row) for x in runs
        ]
        return list(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))

    def check_settings(self, runs: Sequence[PlannedRun]) -> None:
        """Raises InputError if settings have changed since a result was written."""
        changed = [f"{planned.name}.json" for planned in runs if planned.has_other_settings]
        if changed:
            raise InputError(
                f"{self.results.place} has results of other settings: {list_some(changed)}: the "
                "gin files have changed since; remove these results and runs to train them again, "
                "name another --model_dir, or keep them with --accept_changes"
            )

    def accept_settings(self, runs: Sequence[PlannedRun]) -> None:
        """Makes results of earlier settings count, by writing the present settings into them."""
        for planned in runs:
            if planned.has_other_settings:
                accepted = dataclasses.replace(planned.result, configuration=planned.configuration)
                self.results.write(accepted)

    def record(self, result: RunResult) -> None:
        self.results.write(result)
        self.write_swept(result)

    def write_swept(self, result: RunResult) -> None:
        """Writes the record that `mtfrun runs` shows for a run that has not begun or has failed."""
        row = result.row if self.sweep.rows else ""
        is_silent = result.state in ("missing", "finished")
        ending = ("", "", 0) if is_silent else (result.state, result.error, result.step)
        swept = SweptRun(row, result.values, self.sweep.metric, *ending)
        RunRecord(self.directory / result.name).write_swept(swept)

    def write_all_swept(self, runs: Sequence[PlannedRun]) -> None:
        """Also deletes the records of runs that no longer belong to the sweep."""
        names = {run.name for run in self.sweep.runs()} if self.sweep.varies else set()
        for path in self.directory.glob(f"*/{SWEPT}"):
            if path.parent.name not in names and not self.sweep.search:
                path.unlink(missing_ok=True)
        for planned in runs:
            if not planned.is_done or planned.directory.is_dir():
                self.write_swept(planned.result)

    def table(self, runs: Sequence[PlannedRun], metric: str, width: int | None) -> list[str]:
        """Columns: the varied settings, state, step, final metrics; a * marks the best value.

        If some metrics are older than the last step, a column has the steps of the metrics.
        """
        results = [planned.result for planned in runs]
        names = dict.fromkeys([metric, *(name for r in results for name in r.metrics)])
        # Evaluations of a run that failed later are not a result.
        metrics: list[Mapping[str, float]] = [
            {} if r.state in ("failed", "killed") else r.metrics for r in results
        ]
        steps = [str(r.step) for r in results]
        evaluated = [
            str(max(r.evaluations, default=r.step)) if x else "-"
            for r, x in zip(results, metrics, strict=True)
        ]
        varied = [] if self.sweep.rows else list(self.sweep.grid or self.sweep.search)
        columns: dict[str, Sequence[str]] = {}
        if not varied or self.sweep.search:
            columns["row"] = [r.row for r in results]
        columns |= {name: [r.values.get(name, "-") for r in results] for name in varied}
        if self.sweep.seeds:
            columns[SEED] = [str(r.seed) for r in results]
        columns["state"] = ["waiting" if r.state == "missing" else r.state for r in results]
        columns["step"] = steps
        if any(at not in ("-", step) for at, step in zip(evaluated, steps, strict=True)):
            columns["evaluated at"] = evaluated
        for name in names:
            values = [x.get(name, math.nan) for x in metrics]
            is_marked = name == metric
            columns[name] = mark_best(values, name) if is_marked else list(map(metric_text, values))
        return table_lines(list(columns), list(zip(*columns.values(), strict=True)), width)


def _minutes_left(sweep: Sweep, summary: RunSummary) -> float | None:
    if sweep.max_minutes is None:
        return None
    used = summary.status.cost.seconds if summary.status else 0.0
    return max(0.0, sweep.max_minutes - (used or 0.0) / _SECS_PER_MINUTE)


def _has_begun(result: RunResult) -> bool:
    return result.step > 0 or result.state == "finished"


def _is_done(sweep: Sweep, result: RunResult) -> bool:
    is_over = sweep.max_minutes is not None and result.error == budget_text(sweep.max_minutes)
    has_lost = sweep.search and (result.state == "failed" or result.error.startswith(PRUNED))
    return result.state == "finished" or (result.state == "stopped" and is_over) or bool(has_lost)
