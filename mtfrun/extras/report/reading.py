"""Reads what a report is about from directories."""

from __future__ import annotations

import dataclasses
import html
import pathlib
from collections.abc import Sequence

from mtfrun.errors import InputError
from mtfrun.extras.report.charts import EVAL, TRAIN
from mtfrun.extras.report.examples import read_examples
from mtfrun.extras.report.run_page import Examples, Report, RunFacts, read_run
from mtfrun.extras.sweeps.analysis.comparison import compare
from mtfrun.extras.sweeps.analysis.table_formats import html_table, table_notes
from mtfrun.extras.sweeps.result import RunResult, results_of
from mtfrun.extras.sweeps.sweep import Sweep
from mtfrun.metrics.curves import Events
from mtfrun.metrics.tags import tag_of
from mtfrun.rundir import RunDirectory, StepMetrics
from mtfrun.rundir.run_summary import RunSummary, find_runs, no_run_in

# Of several runs so many have examples of their data; of more, the first one alone.
_MOST_WITH_EXAMPLES = 4
_NO_EXAMPLES = "Not asked for: --examples=0."


def report_of(
    directories: Sequence[pathlib.Path], examples: int, allowed_imports: Sequence[str] = ()
) -> Report:
    """Reads the runs in directories and below them; `examples` is a number of rows of each.

    A directory of a sweep, or a file of its results, has its table too, if it is the only one.
    """
    if len(directories) == 1 and directories[0].is_file():
        return _report_of_sweep(directories[0], examples, allowed_imports)
    if len(directories) == 1:
        above = RunDirectory(directories[0])
        above.require()
        path = pathlib.Path(above.path)
        if Sweep.read(path) is not None:
            return _report_of_sweep(path, examples, allowed_imports)
    names: dict[pathlib.Path, str] = {}
    for directory in directories:
        names |= _names_below(directory, alone=len(directories) == 1)
    runs = [read_run(path, name) for path, name in names.items()]
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    return Report(
        title,
        runs,
        [run.name for run in runs],
        range(len(runs)),
        [run.summary.config for run in runs],
        _examples_of(runs, examples, allowed_imports),
        "" if examples else _NO_EXAMPLES,
    )


def _report_of_sweep(path: pathlib.Path, examples: int, allowed_imports: Sequence[str]) -> Report:
    sweep, results = results_of(path)
    values = {result.row: result.values for result in results}
    rows = list(values)
    runs = [_run_of_sweep(path, result, sweep.metric or "loss") for result in results]
    if not runs:
        raise InputError(f"{path} has no run yet: train some with `mtfrun sweep`")
    comparison = compare(path)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table_notes(comparison))
    return Report(
        f"Sweep {path.name}",
        runs,
        rows,
        [rows.index(result.row) for result in results],
        list(values.values()),
        _examples_of(runs, examples, allowed_imports),
        "" if examples else _NO_EXAMPLES,
        f'<div class="wide">{html_table(comparison)}</div>{notes}',
        sweep.metric,
    )


def _run_of_sweep(sweep: pathlib.Path, result: RunResult, metric: str) -> RunFacts:
    """Returns what the run's directory says; the result's, if it is elsewhere or was refused."""
    facts = read_run(sweep / result.name, result.name)
    summary = facts.summary
    if result.state == "missing":
        config = summary.config or result.values
        facts = dataclasses.replace(facts, summary=dataclasses.replace(summary, config=config))
    if summary.has_begun:
        return facts
    if result.state != "missing":
        evaluations = [StepMetrics(step, {metric: x}) for step, x in result.evaluations.items()]
        if result.metrics:
            evaluations = [*evaluations[:-1], StepMetrics(result.step, result.metrics)]
        state = (result.state, result.error, None, result.step)
        summary = RunSummary(result.name, *state, evaluations, result.values)
        facts = dataclasses.replace(facts, summary=summary)
    return RunFacts(
        sweep / result.name,
        facts.summary,
        "",
        {},
        [],
        {TRAIN: Events({}, {}), EVAL: Events({tag_of(metric): result.evaluations}, {})},
        None,
        [],
        [],
    )


def _examples_of(
    runs: Sequence[RunFacts], count: int, allowed_imports: Sequence[str]
) -> dict[int, Examples]:
    with_examples = range(len(runs) if len(runs) <= _MOST_WITH_EXAMPLES else 1) if count else ()
    return {
        i: read_examples(runs[i].directory, count, runs[i].answers, allowed_imports)
        for i in with_examples
    }


def _names_below(directory: pathlib.Path, *, alone: bool) -> dict[pathlib.Path, str]:
    above = RunDirectory(directory)
    above.require()
    path = pathlib.Path(above.path)
    paths = list(find_runs(path))
    if not paths:
        raise no_run_in(path)
    if alone:
        return {x: path.name if x == path else str(x.relative_to(path)) for x in paths}
    return {x: str(pathlib.Path(directory, x.relative_to(path))) for x in paths}
