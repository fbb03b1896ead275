"""The page of a report, one file that fetches nothing: facts of runs in, HTML out.

The texts of a run are data: Jinja2 escapes all of them, invisible characters are shown by their
escapes, and the content security policy allows the scripts with two hashes only.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import pathlib
import time
from collections.abc import Sequence

import jinja2
import markupsafe
from jinja2.utils import htmlsafe_json_dumps

from mtfrun import __version__
from mtfrun.display.formats import time_text
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape
from mtfrun.extras.data_viewer.rows_html import TOKEN_STYLE
from mtfrun.extras.report.charts import EXPERTS, charts_of, points_of
from mtfrun.extras.report.drawing import COLOURS, draw, library
from mtfrun.extras.report.run_page import Report
from mtfrun.extras.report.run_view import (
    Limits,
    RunView,
    answers_together,
    choose_detailed,
    overview_of,
    table_of_varied,
)

LARGEST_PAGE = 3_000_000
"""Bytes of a page; a browser opens it at once, and it can be sent by mail."""

_HERE = pathlib.Path(__file__).parent
_MOST_PROBLEMS = 20
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
    runs = [
        RunView(facts, group, report.examples.get(i), limits)
        for i, (facts, group) in enumerate(zip(report.runs, report.group_of, strict=True))
    ]
    detailed = [runs[i] for i in choose_detailed(report, limits.detailed)]
    curves = [(facts.name, facts.curves) for facts in report.runs]
    points = points_of([of_run for _, of_run in curves], limits.points)
    charts = charts_of(curves, report.group_of, points, most=limits.charts)
    by_category = [
        (category, list(group))
        for category, group in itertools.groupby(charts, key=lambda chart: chart.category)
    ]
    script, drawing = (_HERE / "report.js").read_text("utf-8"), library()
    return _template().render(
        title=report.title,
        runs=runs,
        detailed=detailed,
        is_whole=limits.is_whole,
        problems=_problems(runs),
        has_outputs=any(run.answers or run.pictures for run in detailed),
        groups=report.groups,
        together=answers_together(report.runs, limits.answers),
        varied=table_of_varied(report),
        has_settings=any(report.groups.values()),
        overview=overview_of(report.runs, report.metric),
        categories=[x for x in by_category if x[0] != EXPERTS],
        expert_charts=[x for x in charts if x.category == EXPERTS],
        charts_json=htmlsafe_json_dumps(
            [draw(chart) for chart in charts], allow_nan=False, separators=(",", ":")
        ),
        sweep_table=markupsafe.Markup(report.sweep_table),
        no_examples=report.no_examples,
        library=markupsafe.Markup(drawing),
        script=markupsafe.Markup(script),
        policy=_policy(drawing, script),
        palette=COLOURS,
        token_style=markupsafe.Markup(TOKEN_STYLE),
        left_out="" if limits == _LIMITS[0] else _left_out(limits, len(detailed), len(runs)),
        written=time_text(time.time()),
        version=__version__,
    )


def _problems(runs: Sequence[RunView]) -> list[str]:
    lines = [
        f"{run.facts.name}: {problem}" if len(runs) > 1 else problem
        for run in runs
        for problem in run.problems
    ]
    more = [f"and {len(lines) - _MOST_PROBLEMS:,} more"] if len(lines) > _MOST_PROBLEMS else []
    return lines[:_MOST_PROBLEMS] + more


def _left_out(limits: Limits, detailed: int, runs: int) -> str:
    parts = [f"at most {limits.answers} outputs of a run"]
    if detailed < runs:
        parts.append(
            f"details of {detailed} of the {runs:,} runs (of each row or run in the charts the "
            "best and a failed one come first)"
            if detailed
            else "no details of runs"
        )
    if not limits.is_whole:
        parts.append("no pictures, configurations and values below the charts")
    if limits.charts is not None:
        parts.append(f"at most {limits.charts} charts" if limits.charts else "no charts")
    return (
        f"To stay below {LARGEST_PAGE // 10**6} MB it has {', '.join(parts)}, and fewer points of "
        "curves: mtfrun report RUN has all of one run"
    )


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
    return environment.get_template("report.html")


def _printable(value: object) -> object:
    """Escapes characters that are not seen, or change the direction of writing."""
    if isinstance(value, pathlib.Path):
        value = str(value)
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup) or value.isprintable():
        return value
    return "".join(c if c in "\n\t" else escape(c) for c in value)
