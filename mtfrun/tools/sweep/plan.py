"""Which runs of a sweep are done, and which are trained or resumed."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from mtfrun.display.formats import number_text
from mtfrun.display.table import table_lines
from mtfrun.errors import InputError, list_some
from mtfrun.tools.runs import RunSummary, mark_best, metric_of, summary_of
from mtfrun.tools.sweep.outcome import budget_text, result_of
from mtfrun.tools.sweep.result import RunResult
from mtfrun.tools.sweep.sweep import SEED, Sweep, SweepRun

_SECS_PER_MINUTE = 60.0


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run, the hash of its configuration, its recorded result, or None, and whether it is done.

    `is_new`: the result is not written yet. `minutes` are left of its budget; None without one.
    """

    run: SweepRun
    configuration: str
    result: RunResult | None
    is_done: bool
    is_new: bool
    minutes: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs that a command asks for, and where they and their results are.

    A result counts if it has the settings that its run would have now, whichever machine has
    trained it. Runs that failed, were killed or were stopped by a signal are trained again.
    """

    sweep: Sweep
    directory: pathlib.Path
    results: pathlib.Path
    runs: Sequence[PlannedRun]
    with_other_settings: Sequence[str]

    @classmethod
    def of(
        cls,
        sweep: Sweep,
        runs: Sequence[SweepRun],
        directory: pathlib.Path,
        results: pathlib.Path,
        search_paths: Sequence[str],
    ) -> Plan:
        planned, changed = [], []
        for run in runs:
            path = results / f"{run.name}.json"
            result = RunResult.read(path) if path.exists() else None
            configuration = sweep.configuration_hash(run, search_paths)
            if result is not None and result.configuration not in ("", configuration):
                changed.append(path.name)
            summary = summary_of(directory / run.name, run.name)
            minutes = _minutes_left(sweep, summary)
            is_done = _is_done(sweep, result)
            # It has ended after the sweep was killed, or was trained by `mtfrun train`.
            is_new = not is_done and (summary.state == "finished" or minutes == 0)
            if is_new:
                result = result_of(sweep, run, directory / run.name, configuration, None)
            planned.append(
                PlannedRun(run, configuration, result, is_done or is_new, is_new, minutes)
            )
        return cls(sweep, directory, results, planned, changed)

    def check_configurations(self) -> None:
        """Raises InputError if a result has other settings than its run would have now."""
        if self.with_other_settings:
            raise InputError(
                f"{self.results} has results of other settings: "
                f"{list_some(self.with_other_settings)}: the gin files have changed since; remove "
                "these results and runs to train them again, name another --model_dir, or keep "
                "them with --accept_changes"
            )

    def write_results(self) -> None:
        """Writes the results of runs that another process has trained."""
        for planned in self.runs:
            if planned.is_new and planned.result is not None:
                planned.result.write(self.path(planned.run.name))

    def path(self, name: str) -> pathlib.Path:
        return self.results / f"{name}.json"

    def table(self, metric: str | None, columns: int | None) -> list[str]:
        """Columns: what varies, state, step, final metrics; a * marks the best one."""
        results = [self._shown(planned) for planned in self.runs]
        metric = metric_of([result.metrics for result in results], metric)
        others = list(dict.fromkeys(m for r in results for m in r.metrics if m != metric))
        marked = mark_best([r.metrics.get(metric, math.nan) for r in results], metric)
        varied = [] if self.sweep.rows else list(self.sweep.grid)
        rows = []
        for result, last in zip(results, marked, strict=True):
            values = [result.values.get(name, "-") for name in varied] or [result.row]
            seed = [str(result.seed)] * bool(self.sweep.seeds)
            finals = [_number(result.metrics.get(other, math.nan)) for other in others]
            rows.append([*values, *seed, result.state, str(result.step), last, *finals])
        seeds = [SEED] * bool(self.sweep.seeds)
        headings = [*(varied or ["row"]), *seeds, "state", "step", metric, *others]
        return table_lines(headings, rows, columns)

    def _shown(self, planned: PlannedRun) -> RunResult:
        run = planned.run
        waiting = RunResult(run.name, run.row, run.seed or 0, run.values, "missing")
        return planned.result or waiting


def _minutes_left(sweep: Sweep, summary: RunSummary) -> float | None:
    if sweep.max_minutes is None:
        return None
    used = summary.status.cost.seconds if summary.status else 0.0
    return max(0.0, sweep.max_minutes - (used or 0.0) / _SECS_PER_MINUTE)


def _is_done(sweep: Sweep, result: RunResult | None) -> bool:
    if result is None:
        return False
    is_over = sweep.max_minutes is not None and result.error == budget_text(sweep.max_minutes)
    return result.state == "finished" or (result.state == "stopped" and is_over)


def _number(value: float) -> str:
    return number_text(value) if math.isfinite(value) else "-"
