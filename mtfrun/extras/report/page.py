"""The page of a report, one file that fetches nothing: facts of runs in, HTML out.

The texts of a run are data: Jinja2 escapes all of them, invisible characters are shown by their
escapes, and the content security policy allows the scripts with two hashes only.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import itertools
import math
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
import markupsafe
from jinja2.utils import htmlsafe_json_dumps

from mtfrun import __version__
from mtfrun.display.formats import bytes_text, duration_text, metric_text, number_text, time_text
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape
from mtfrun.extras.data_viewer.rows_html import TOKEN_STYLE
from mtfrun.extras.report.answers import Answer
from mtfrun.extras.report.charts import COLOURS, EXPERTS, charts_of, draw, library
from mtfrun.extras.report.run_page import Report, RunFacts
from mtfrun.metrics.catalogue import LOWEST, best_mode
from mtfrun.metrics.curves import Picture, choose_steps
from mtfrun.metrics.tags import Description, description_of
from mtfrun.rundir import StepMetrics
from mtfrun.rundir.run_summary import (
    RunSummary,
    mark_best,
    metric_of,
    speed_text,
    summary_rows,
    varied_names,
)

LARGEST_PAGE = 3_000_000
"""Bytes of a page; a browser opens it at once, and it can be sent by mail."""

_HERE = pathlib.Path(__file__).parent
_MOST_PROBLEMS = 20
_FILTERS = (bytes_text, duration_text, number_text, speed_text, time_text, base64.b64encode)
_MOST_EVALUATIONS = 20
_MOST_METRICS = 8
_MOST_TOGETHER = 4
# Pictures of the evaluations that a report shows; attention's are of one sample.
_PICTURES = ("confusion_matrix", "predictions", "routing/")


class Table(NamedTuple):
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much of its runs a page has."""

    points: int  # number of points of all curves together
    answers: int  # answers of each run
    # whether there are pictures, configurations, and tables of values below charts
    is_whole: bool = True
    charts: int | None = None  # maximum number of charts; None for all
    # the number of runs that have more than a row of the table; None for all
    detailed: int | None = None


# From the largest page to the smallest one.
_LIMITS = (
    Limits(60_000, 100),
    Limits(30_000, 20),
    Limits(8_000, 2, is_whole=False, detailed=30),
    Limits(8_000, 2, is_whole=False, detailed=10, charts=4),
    Limits(0, 0, is_whole=False, detailed=0, charts=0),
)


def render(report: Report) -> str:
    """Returns HTML of less than LARGEST_PAGE bytes, with fewer points and outputs if needed.

    InputError if there are too many runs.
    """
    for limits in _LIMITS:
        page = _render(report, limits)
        if len(page.encode("utf-8", "surrogateescape")) < LARGEST_PAGE:
            return page
    raise InputError(
        f"a report of {len(report.runs)} runs would be larger than {LARGEST_PAGE:,} bytes: "
        "name fewer runs"
    )


def _render(report: Report, limits: Limits) -> str:
    runs = report.runs
    detailed = [runs[i] for i in choose_detailed(report, limits.detailed)]
    outputs = [
        (
            run,
            run.answers.answers[: limits.answers] if run.answers else (),
            pictures_of(run) if limits.is_whole else [],
        )
        for run in detailed
    ]
    curves = [(run.name, run.group, run.curves) for run in runs]
    charts = charts_of(curves, limits.points, limits.charts)
    by_category = [
        (category, list(group))
        for category, group in itertools.groupby(charts, key=lambda chart: chart.category)
    ]
    script, drawing = (_HERE / "report.js").read_text("utf-8"), library()
    return _template().render(
        report=report,
        runs=runs,
        detailed=detailed,
        problems=_problems(runs),
        outputs=[x for x in outputs if x[1] or x[2]],
        together=answers_together(report.runs, limits.answers),
        varied=table_of_varied(report),
        overview=Table(*summary_rows([run.summary for run in runs], _metric_of(report))),
        categories=[x for x in by_category if x[0] != EXPERTS],
        expert_charts=[x for x in charts if x.category == EXPERTS],
        charts_json=htmlsafe_json_dumps(
            [draw(chart) for chart in charts], allow_nan=False, separators=(",", ":")
        ),
        sweep_table=markupsafe.Markup(report.sweep_table),
        library=markupsafe.Markup(drawing),
        script=markupsafe.Markup(script),
        policy=_policy(drawing, script),
        palette=COLOURS,
        token_style=markupsafe.Markup(TOKEN_STYLE),
        limits=limits,
        is_smaller=limits != _LIMITS[0],
        largest=f"{LARGEST_PAGE // 10**6} MB",
        written=time_text(time.time()),
        version=__version__,
    )


def _problems(runs: Sequence[RunFacts]) -> list[str]:
    lines = [
        f"{run.name}: {problem}" if len(runs) > 1 else problem
        for run in runs
        for problem in dict.fromkeys([*filter(None, [run.summary.error]), *run.problems])
    ]
    more = [f"and {len(lines) - _MOST_PROBLEMS:,} more"] if len(lines) > _MOST_PROBLEMS else []
    return lines[:_MOST_PROBLEMS] + more


def _policy(*scripts: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for x in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    # Bokeh adds style elements.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {f.__name__: f for f in (best_of, evaluations_of, times_of, step_text)}
    environment.filters |= {f.__name__: f for f in _FILTERS}
    return environment.get_template("report.html")


def _printable(value: object) -> object:
    """Escapes characters that are not seen, or change the direction of writing."""
    if isinstance(value, pathlib.Path):
        value = str(value)
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup) or value.isprintable():
        return value
    return "".join(c if c in "\n\t" else escape(c) for c in value)


def best_of(run: RunFacts) -> tuple[str, StepMetrics | None]:
    """Returns the metric that compares runs, and the evaluation with its best value."""
    metric = metric_of([run.summary.metrics], None)
    return metric, run.summary.best(metric)


def evaluations_of(run: RunFacts) -> tuple[Table, str]:
    """Returns metrics by step, and the name of the first one, of which the best value is marked."""
    summary = run.summary
    metric, best = best_of(run)
    names = [metric, *(name for name in summary.metrics if name != metric)][:_MOST_METRICS]
    values = {e.step: e.metrics for e in summary.evaluations}
    steps = choose_steps(values, [] if best is None else [best.step], _MOST_EVALUATIONS)
    columns = [[values[step].get(name, math.nan) for step in steps] for name in names]
    texts = [mark_best(columns[0], metric), *(map(metric_text, x) for x in columns[1:])]
    rows = [[f"{step:,}", *row] for step, *row in zip(steps, *texts, strict=True)]
    return Table(["Step", *names], rows), metric


def times_of(run: RunFacts) -> list[tuple[str, float, str]]:
    """Returns causes with their shares of the time, and texts."""
    status = run.summary.status
    if status is None or not status.cost.seconds_by_cause:
        return []
    cost = status.cost
    named = sum(cost.seconds_by_cause.values())
    total = max(named, cost.seconds or 0.0) or 1.0
    causes = {**cost.seconds_by_cause, "start and end of the program": total - named}
    return [
        (cause, secs / total, f"{duration_text(secs)} ({secs / total:.1%})")
        for cause, secs in sorted(causes.items(), key=lambda item: -item[1])
    ]


def pictures_of(run: RunFacts) -> list[tuple[Description, Picture]]:
    return [
        (description_of(tag), picture)
        for tag, picture in run.events["eval"].pictures.items()
        if any(wanted in tag for wanted in _PICTURES)
    ]


def answers_together(runs: Sequence[RunFacts], most: int) -> list[list[Answer]]:
    """Returns the answers of all runs to the inputs that they have in common, a list for each.

    Inputs with the most wrong answers come first. Empty for images, and for more than
    _MOST_TOGETHER runs, whose columns would be too narrow.
    """
    recorded = [run.answers.answers for run in runs if run.answers and not run.answers.has_images]
    if not 1 < len(runs) <= _MOST_TOGETHER or len(recorded) < len(runs):
        return []
    by_input = [{(x.task, x.input, x.target): x for x in answers} for answers in recorded]
    together = [
        [answers[key] for answers in by_input]
        for key in by_input[0]
        if all(key in answers for answers in by_input)
    ]
    return sorted(together, key=lambda answers: -sum(x.is_wrong for x in answers))[:most]


def choose_detailed(report: Report, most: int | None) -> list[int]:
    """Returns the indices of at most so many runs: of each group the best and the first failed one.

    Other runs come after them.
    """
    runs = report.runs
    if most is None or most >= len(runs):
        return list(range(len(runs)))
    metric = _metric_of(report)
    sign = 1 if best_mode(metric) == LOWEST else -1
    bests = [run.summary.best(metric) for run in runs]
    values = [math.inf if best is None else sign * best.metrics[metric] for best in bests]
    chosen: dict[int, None] = {}
    for group in range(len(report.groups)):
        members = [i for i, run in enumerate(runs) if run.group == group]
        chosen |= dict.fromkeys(sorted(members, key=lambda i: values[i])[:1])
        chosen |= dict.fromkeys([i for i in members if runs[i].summary.error][:1])
    return sorted(list(chosen | dict.fromkeys(range(len(runs))))[:most])


def _metric_of(report: Report) -> str:
    return report.metric or metric_of([run.summary.metrics for run in report.runs], None)


def table_of_varied(report: Report) -> Table:
    """Returns the settings in which the groups differ, a row for each group."""
    varied = varied_names(report.groups.values())
    rows = [
        [group, *(settings.get(name, "-") for name in varied)]
        for group, settings in report.groups.items()
    ]
    return Table(["Name", *varied], rows)


def step_text(summary: RunSummary) -> str:
    total = f" of {summary.status.train_steps:,}" if summary.status else ""
    return f"{summary.step:,}{total}"
