"""Compares the rows of a sweep: means over seeds, differences to a baseline, costs."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from mtfrun.errors import InputError, did_you_mean
from mtfrun.extras.sweeps.analysis.statistics import (
    Difference,
    Estimate,
    correct_for_number,
    estimate_difference,
    estimate_mean,
    resampled_difference,
    resampled_mean,
)
from mtfrun.extras.sweeps.result import WITH_CHANGES, Results, RunResult, results_of
from mtfrun.rundir import RunCost
from mtfrun.rundir.run_summary import metric_of, summary_of

# Between the values of an environment in which runs differ.
_AND = " and "


@dataclasses.dataclass(frozen=True)
class Measured:
    """A metric of a row."""

    values: Mapping[int, float]  # finite values of the finished runs, by seed
    mean: Estimate
    difference: Difference  # to the baseline, paired by seed or by example
    different_outputs: int | None = None  # outputs that are not the baseline's, if these are known


@dataclasses.dataclass(frozen=True)
class ComparedRow:
    """A row of the table."""

    name: str
    baseline: str | None  # the row that this one is compared to; None for a baseline
    metrics: Mapping[str, Measured]
    cost: RunCost
    note: str = ""  # missing runs with the reason, and pairs; or ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of a sweep."""

    name: str
    question: str  # the sweep's question, or its name
    metrics: Sequence[str]
    rows: Sequence[ComparedRow]
    seeds: int  # how many the sweep has
    # the environment of the runs by name; a text has several values if runs differ
    environment: Mapping[str, str]

    @property
    def baselines(self) -> list[str]:
        return list(dict.fromkeys(row.baseline for row in self.rows if row.baseline is not None))

    @property
    def differences(self) -> list[Difference]:
        measured = [m for row in self.rows for m in row.metrics.values()]
        return [m.difference for m in measured if m.difference.count]

    @property
    def examples(self) -> int:
        """How many examples intervals are resampled over; 0 if all intervals are over seeds."""
        return max((m.mean.examples for x in self.rows for m in x.metrics.values()), default=0)


def compare(
    directory: pathlib.Path, metrics: Sequence[str] = (), baseline: str | None = None
) -> Comparison:
    """Returns the table of the sweep in a directory, or of its results alone.

    `metrics` and `baseline` are the sweep's by default; InputError for unknown names.
    """
    sweep, results = results_of(directory)
    if not results:
        raise InputError(f"{directory} has no results yet: they are written as runs end")
    if baseline is not None:
        row_names = list(dict.fromkeys([*sweep.rows, *(result.row for result in results)]))
        if baseline not in row_names:
            hint = did_you_mean(baseline, row_names) or f"; there are {', '.join(row_names)}"
            raise InputError(f"--baseline={baseline}: no row has this name{hint}")
        sweep = dataclasses.replace(sweep, baseline=baseline)
    evaluated = [result.metrics for result in results]
    place = "--metric=" if metrics else "Sweep.metric = "
    chosen: Sequence[str | None] = metrics or [sweep.metric]
    named = (metric_of(evaluated, x, place, is_evaluated=bool(metrics)) for x in chosen)
    names = list(dict.fromkeys(named))
    by_row: dict[str, list[RunResult]] = {}
    for result in results:
        by_row.setdefault(result.row, []).append(result)
    baselines = {run.row: run.baseline for run in (sweep.runs() if sweep.varies else [])}
    rows = []
    for row, runs in by_row.items():
        compared = None if baselines.get(row) == row else baselines.get(row)
        others = by_row.get(compared or "", [])
        measured = {metric: _measure(runs, others, metric, sweep.metric) for metric in names}
        note = _note(directory, runs, names, measured)
        rows.append(ComparedRow(row, compared, measured, _cost(runs), note))
    rows = _corrected(rows)
    name = sweep.name or Results(directory).name
    seeds = len({result.seed for result in results})
    return Comparison(name, sweep.question or name, names, rows, seeds, _environment(results))


def require_commits(comparison: Comparison) -> None:
    """Raises InputError if runs are of a checkout whose files differed from its commit."""
    commits = comparison.environment.get("git", "").split(_AND)
    if changed := [commit for commit in commits if WITH_CHANGES in commit]:
        raise InputError(
            f"runs are of git {_AND.join(changed)}, so that nobody can repeat them: remove their "
            "results and train them from a commit, or give --allow_changes for a draft"
        )


def _measure(
    runs: Sequence[RunResult], others: Sequence[RunResult], metric: str, resampled: str | None
) -> Measured:
    """Returns a metric of a row's runs and its difference to the runs of the baseline.

    Of one model whose examples are resampled (for the metric `resampled`) the intervals are over
    examples, of several over seeds.
    """
    values, baseline = _values(runs, metric), _values(others, metric)
    mean, difference = estimate_mean(list(values.values())), estimate_difference(values, baseline)
    if metric != resampled or len(values) != 1:
        return Measured(values, mean, difference)
    ((seed, value),) = values.items()
    by_seed = [{run.seed: run.resamples for run in row} for row in (runs, others)]
    own, other = (resamples.get(seed) for resamples in by_seed)
    if own is None:
        return Measured(values, mean, difference)
    mean = resampled_mean(value, own.scores, own.examples)
    if other is None or seed not in baseline or not own.pairs_with(other):
        return Measured(values, mean, difference)
    difference = resampled_difference(value, own.scores, baseline[seed], other.scores, own.examples)
    return Measured(values, mean, difference, own.count_different_outputs(other))


def _corrected(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """Returns the rows with the q of every difference of the table."""
    measured = [x for row in rows for x in row.metrics.values()]
    differences = iter(correct_for_number([x.difference for x in measured]))
    return [
        dataclasses.replace(
            row,
            metrics={
                name: dataclasses.replace(x, difference=next(differences))
                for name, x in row.metrics.items()
            },
        )
        for row in rows
    ]


def _values(runs: Sequence[RunResult], metric: str) -> dict[int, float]:
    return {run.seed: run.metrics[metric] for run in runs if not _fault(run, metric)}


def _fault(run: RunResult, metric: str) -> str:
    """Returns why a run has no value of a metric; "" if it has one."""
    if run.state != "finished":
        error = run.error.partition("; ")[0]  # without the remedy
        if not error or run.state == "missing":
            return run.state
        return error if error.startswith(run.state) else f"{run.state}: {error}"
    if metric not in run.metrics:
        return f"without {metric}"
    return "" if math.isfinite(run.metrics[metric]) else f"without a finite {metric}"


def _note(
    directory: pathlib.Path,
    runs: Sequence[RunResult],
    metrics: Sequence[str],
    measured: Mapping[str, Measured],
) -> str:
    """Returns "2 of 3 seeds; seed 2 failed: loss is NaN at step 40"; "" if all are there."""
    seeds: dict[str, list[int]] = {}
    for run in runs:
        faults = [_fault(run, metric) for metric in metrics]
        if run.state == "missing":
            faults = [_progress(directory / run.name, run.name)]
        for fault in filter(None, dict.fromkeys(faults)):
            seeds.setdefault(fault, []).append(run.seed)
    if len(runs) == 1:
        return "; ".join(seeds)
    parts = []
    with_values = len({seed for x in measured.values() for seed in x.values})
    if with_values < len(runs):
        parts.append(f"{with_values} of {len(runs)} seeds")
    for fault, numbers in seeds.items():
        names = f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        parts.append(f"{names} {fault}")
    first = measured[metrics[0]]
    if 0 < first.difference.count < len(first.values):
        parts.append(f"difference of {first.difference.count} pairs")
    return "; ".join(parts)


def _progress(directory: pathlib.Path, name: str) -> str:
    summary = summary_of(directory, name)
    if summary.state == "waiting":
        return "not trained"
    total = f" of {summary.status.train_steps}" if summary.status else ""
    return f"{summary.state} at step {summary.step}{total}"


def _cost(runs: Sequence[RunResult]) -> RunCost:
    finished = [run for run in runs if run.state == "finished"]
    causes = dict.fromkeys(cause for run in finished for cause in run.seconds_by_cause)
    sized = [run for run in runs if run.parameters is not None]
    first = next((run for run in sized if run.flops_per_token is not None), next(iter(sized), None))
    seconds = [run.seconds for run in finished if run.seconds is not None]
    means = {c: _mean([run.seconds_by_cause.get(c, 0.0) for run in finished]) for c in causes}
    return RunCost(
        **{name: getattr(first, name, None) for name in _SIZES},
        seconds=_mean(seconds),
        seconds_by_cause={cause: mean for cause, mean in means.items() if mean},
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


_SIZES = ("parameters", "active_parameters", "flops_per_token", "tokens_per_step")


def _environment(results: Sequence[RunResult]) -> dict[str, str]:
    names = dict.fromkeys(name for result in results for name in result.environment)
    texts = {n: [r.environment[n] for r in results if n in r.environment] for n in names}
    return {name: _AND.join(dict.fromkeys(values)) for name, values in texts.items()}
