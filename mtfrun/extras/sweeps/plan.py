"""Which runs of a sweep are done, and which are trained or resumed."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence

from mtfrun.display.formats import metric_text
from mtfrun.display.table import table_lines
from mtfrun.errors import InputError, list_some
from mtfrun.extras.sweeps.result import Results, RunResult, budget_text, result_of
from mtfrun.extras.sweeps.sweep import SEED, Sweep, SweepRun
from mtfrun.rundir import RunRecord, SweptRun
from mtfrun.rundir.run_record import SWEPT
from mtfrun.rundir.run_summary import RunSummary, mark_best, metric_of, summary_of

_SECS_PER_MINUTE = 60.0


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run and its records."""

    number: int  # its place among all runs, from 1
    run: SweepRun
    directory: pathlib.Path
    configuration: str = ""  # the hash of its settings
    result: RunResult | None = None  # None without one
    is_done: bool = False  # whether it need not be trained any more
    is_new: bool = False  # whether its result is not written yet
    has_other_settings: bool = False  # whether the recorded result has
    minutes: float | None = None  # minutes that are left of its budget; None without one

    @property
    def name(self) -> str:
        return self.run.name


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the runs of a sweep and their results are, and the gin files.

    A result counts if it has the settings that its run would have now, whichever machine has
    trained it. Runs that failed, were killed or were stopped by a signal are trained again.
    """

    sweep: Sweep
    directory: pathlib.Path
    results: pathlib.Path
    search_paths: Sequence[str]

    def runs(self, runs: Iterable[SweepRun]) -> list[PlannedRun]:
        return [self.plan(number, run) for number, run in enumerate(runs, 1)]

    def plan(self, number: int, run: SweepRun) -> PlannedRun:
        result = Results(self.results).get(run.name)
        configuration = self.sweep.configuration_hash(run, self.search_paths)
        is_other = (
            result is not None
            and _has_begun(result)
            and result.configuration not in ("", configuration)
        )
        directory = self.directory / run.name
        summary = summary_of(directory, run.name)
        minutes = _minutes_left(self.sweep, summary)
        is_done = _is_done(self.sweep, result)
        # It has ended after the sweep was killed, or was trained by `mtfrun train`.
        is_new = not is_done and (summary.state == "finished" or minutes == 0)
        if is_new:
            result = result_of(self.sweep, run, directory, configuration, None)
        return PlannedRun(
            number,
            run,
            directory,
            configuration,
            result,
            is_done=is_done or is_new,
            is_new=is_new,
            has_other_settings=is_other,
            minutes=minutes,
        )

    def has_begun(self, run: SweepRun) -> bool:
        """Whether a run has taken a step, by its directory or its result."""
        summary = summary_of(self.directory / run.name, run.name)
        if summary.state == "running" or summary.step > 0:
            return True
        result = Results(self.results).get(run.name)
        return result is not None and _has_begun(result)

    def bindings_of(self, run: SweepRun) -> dict[str, str]:
        return {**self.sweep.bindings, **run.bindings}

    def settings_of_rows(self, runs: Sequence[PlannedRun]) -> list[str]:
        """Returns a line for each row that has settings that not all runs have."""
        settings = {
            planned.run.row: [
                *planned.run.gin_files,
                *(f"{name} = {text}" for name, text in planned.run.values.items()),
            ]
            for planned in runs
            if self.sweep.rows
        }
        return [f"{row}: {', '.join(texts)}" for row, texts in settings.items() if texts]

    def check_metric(self, metrics: Iterable[str], name: str | None) -> None:
        """Raises InputError if an evaluation has no metric of that name, or the sweep's."""
        place = "Sweep.metric = " if name is None else "--metric="
        metric_of([metrics], name or self.sweep.metric, place)

    def equal_rows(self, runs: Iterable[PlannedRun]) -> list[tuple[str, str]]:
        """Returns the pairs of rows with the same settings, whose runs would be the same."""
        first: dict[tuple[str, int | None], str] = {}
        pairs = [
            (first.setdefault((x.configuration, x.run.seed), x.run.row), x.run.row) for x in runs
        ]
        return list(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))

    def check_settings(self, runs: Sequence[PlannedRun]) -> None:
        """Raises InputError if a result has other settings than its run would have now."""
        changed = [f"{planned.name}.json" for planned in runs if planned.has_other_settings]
        if changed:
            raise InputError(
                f"{self.results} has results of other settings: {list_some(changed)}: the gin "
                "files have changed since; remove these results and runs to train them again, "
                "name another --model_dir, or keep them with --accept_changes"
            )

    def accept_settings(self, runs: Sequence[PlannedRun]) -> None:
        """Writes the present settings into results with others, which count from now on."""
        for planned in runs:
            if planned.result is not None and planned.has_other_settings:
                accepted = dataclasses.replace(planned.result, configuration=planned.configuration)
                Results(self.results).write(accepted)

    def write_swept(self, run: SweepRun, result: RunResult | None = None) -> None:
        """Writes what `mtfrun runs` reads of a run that has not begun, or has failed."""
        directory = self.directory / run.name
        directory.mkdir(parents=True, exist_ok=True)
        swept = SweptRun(run.row if self.sweep.rows else "", run.values, self.sweep.metric)
        if result is not None and result.error:
            swept = dataclasses.replace(
                swept, state=result.state, error=result.error, step=result.step
            )
        RunRecord(directory).write_swept(swept)

    def write_all_swept(self, runs: Sequence[PlannedRun]) -> None:
        """Runs of rows that the sweep has no more are not the sweep's."""
        names = {run.name for run in self.sweep.runs()} if self.sweep.varies else set()
        for path in self.directory.glob(f"*/{SWEPT}"):
            if path.parent.name not in names and not self.sweep.search:
                path.unlink(missing_ok=True)
        for planned in runs:
            if not planned.is_done or planned.directory.is_dir():
                self.write_swept(planned.run, planned.result)

    def table(
        self, runs: Sequence[PlannedRun], metric: str | None, columns: int | None
    ) -> list[str]:
        """Columns: what varies, state, step, final metrics; a * marks the best one.

        The step of the metrics is another column if it is not the last one in all runs.
        """
        results = [
            x.result or RunResult(x.name, x.run.row, x.run.seed or 0, x.run.values, "missing")
            for x in runs
        ]
        metric = metric_of([result.metrics for result in results], metric)
        others = list(dict.fromkeys(m for r in results for m in r.metrics if m != metric))
        # What was evaluated before a run failed is not a result.
        results = [
            dataclasses.replace(r, metrics={}) if r.state in ("failed", "killed") else r
            for r in results
        ]
        evaluated = [max(r.evaluations, default=r.step) for r in results if r.metrics]
        has_earlier = evaluated != [r.step for r in results if r.metrics]
        marked = mark_best([r.metrics.get(metric, math.nan) for r in results], metric)
        varied = [] if self.sweep.rows else list(self.sweep.grid or self.sweep.search)
        named = not varied or bool(self.sweep.search)
        rows = []
        for result, last in zip(results, marked, strict=True):
            values = [result.values.get(name, "-") for name in varied]
            if named:
                values.insert(0, result.row)
            seed = [str(result.seed)] * bool(self.sweep.seeds)
            finals = [metric_text(result.metrics.get(other, math.nan)) for other in others]
            state = "waiting" if result.state == "missing" else result.state
            at = str(max(result.evaluations, default=result.step)) if result.metrics else "-"
            steps = [str(result.step), *[at] * has_earlier]
            rows.append([*values, *seed, state, *steps, last, *finals])
        seeds = [SEED] * bool(self.sweep.seeds)
        steps = ["step", *["evaluated at"] * has_earlier]
        headings = [*["row"] * named, *varied, *seeds, "state", *steps, metric, *others]
        return table_lines(headings, rows, columns)


def drop_untrained_rows(
    former: Sweep, command: Sweep, directory: pathlib.Path, results: pathlib.Path
) -> Sweep:
    """Returns the former sweep without rows that the command changes and that have taken no step.

    So a row that was refused can be corrected.
    """

    def has_begun(name: str) -> bool:
        of_row = dataclasses.replace(former, rows={name: former.rows[name]})
        plan = Plan(of_row, directory, results, [])
        return any(plan.has_begun(run) for run in of_row.runs())

    kept = {
        name: row
        for name, row in former.rows.items()
        if command.rows.get(name, row) == row or has_begun(name)
    }
    return dataclasses.replace(former, rows=kept or command.rows)


def _minutes_left(sweep: Sweep, summary: RunSummary) -> float | None:
    if sweep.max_minutes is None:
        return None
    used = summary.status.cost.seconds if summary.status else 0.0
    return max(0.0, sweep.max_minutes - (used or 0.0) / _SECS_PER_MINUTE)


def _has_begun(result: RunResult) -> bool:
    return result.step > 0 or result.state == "finished"


def _is_done(sweep: Sweep, result: RunResult | None) -> bool:
    if result is None:
        return False
    is_over = sweep.max_minutes is not None and result.error == budget_text(sweep.max_minutes)
    return result.state == "finished" or (result.state == "stopped" and is_over)
