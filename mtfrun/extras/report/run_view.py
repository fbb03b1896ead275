"""The facts of runs as texts of a page: numbers with their units, tables as rows."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from mtfrun.display.formats import bytes_text, duration_text, metric_text, number_text, time_text
from mtfrun.extras.report.answers import Answer
from mtfrun.extras.report.examples import Examples
from mtfrun.extras.report.run_page import Report, RunFacts
from mtfrun.metrics.catalogue import LOWEST, best_mode
from mtfrun.metrics.curves import choose_steps
from mtfrun.metrics.tags import description_of
from mtfrun.rundir import RunCost
from mtfrun.rundir.run_summary import RunSummary, mark_best, metric_of, speed_text

_MOST_EVALUATIONS = 20
_MOST_METRICS = 8
_MOST_TOGETHER = 4
# Pictures of the evaluations that a report shows; attention's are of one sample.
_PICTURES = ("confusion_matrix", "predictions", "routing/")


class Table(NamedTuple):
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    metric: str = ""


class ShownPicture(NamedTuple):
    title: str
    step: int
    base64: str
    alt: str


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


@dataclasses.dataclass(frozen=True)
class RunView:
    """A run as the template shows it."""

    facts: RunFacts
    group: int
    examples: Examples | None
    limits: Limits

    @property
    def problems(self) -> list[str]:
        error = self.facts.summary.error
        return list(dict.fromkeys([*([error] if error else []), *self.facts.problems]))

    @property
    def changes(self) -> list[list[str]]:
        return [
            [x.name, *("not set" if value is None else str(value) for value in (x.old, x.new))]
            for x in self.facts.comparison.changes
        ]

    @property
    def state(self) -> list[tuple[str, str]]:
        summary, status = self.facts.summary, self.facts.summary.status
        metric = metric_of([summary.metrics], None)
        best = summary.best(metric)
        rows = [("State", summary.state), ("Step", _step(summary))]
        if summary.evaluations:
            last = summary.evaluations[-1]
            rows += [(f"Last {name}", number_text(x)) for name, x in list(last.metrics.items())[:4]]
        if best is not None:
            value = number_text(best.metrics[metric])
            rows.append((f"Best {metric}", f"{value} at step {best.step:,}"))
        if self.facts.checkpoints:
            rows.append(("Newest checkpoint", f"step {self.facts.checkpoints[0].step:,}"))
        if status is not None:
            rows += [
                *_cost(status.cost),
                ("Speed", speed_text(summary)),
                ("Last record", time_text(status.time)),
            ]
        return rows

    @property
    def evaluations(self) -> Table:
        summary = self.facts.summary
        metric = metric_of([summary.metrics], None)
        names = [metric, *(name for name in summary.metrics if name != metric)][:_MOST_METRICS]
        values = {e.step: e.metrics for e in summary.evaluations}
        best = summary.best(metric)
        preferred = [] if best is None else [best.step]
        steps = choose_steps(values, preferred, _MOST_EVALUATIONS)
        columns = [[values[step].get(name, math.nan) for step in steps] for name in names]
        texts = [[metric_text(x) for x in column] for column in columns]
        if texts:
            texts[0] = mark_best(columns[0], metric)
        rows = [[f"{step:,}", *(column[i] for column in texts)] for i, step in enumerate(steps)]
        return Table(["Step", *names], rows, metric)

    @property
    def checkpoints(self) -> list[list[str]]:
        return [
            [
                f"{x.step:,}",
                time_text(x.time),
                bytes_text(x.bytes) if x.manifest else "-",
                "; ".join(x.damages) or "good",
            ]
            for x in self.facts.checkpoints
        ]

    @property
    def times(self) -> list[tuple[str, float, str]]:
        """Causes with their shares of the time, and texts."""
        status = self.facts.summary.status
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

    @property
    def answers(self) -> Sequence[Answer]:
        answers = self.facts.answers
        return answers.answers[: self.limits.answers] if answers else ()

    @property
    def labels(self) -> list[list[str]]:
        return [
            [f"{x.index}", x.output, f"{x.probability or 0:.1%}", x.target or ""]
            for x in self.answers
        ]

    @property
    def pictures(self) -> list[ShownPicture]:
        if not self.limits.is_whole:
            return []
        accuracy = self.facts.summary.last("accuracy")
        right = f"; accuracy {accuracy:.4f}" if math.isfinite(accuracy) else ""
        return [
            ShownPicture(
                description_of(tag).title,
                picture.step,
                base64.b64encode(picture.png).decode("ascii"),
                f"{description_of(tag).text} Step {picture.step}{right}",
            )
            for tag, picture in self.facts.events["eval"].pictures.items()
            if any(wanted in tag for wanted in _PICTURES)
        ]


def answers_together(runs: Sequence[RunFacts], most: int) -> list[list[Answer]]:
    """Returns the answers of all runs to the inputs that they have in common, a list for each.

    Inputs with the most wrong answers come first. Empty for images, and for more than
    _MOST_TOGETHER runs, whose columns would be too narrow.
    """
    recorded = [run.answers.answers for run in runs if run.answers and not run.answers.of_images]
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
    metric = report.metric or metric_of([run.summary.metrics for run in runs], None)
    sign = 1 if best_mode(metric) == LOWEST else -1
    bests = [run.summary.best(metric) for run in runs]
    values = [math.inf if best is None else sign * best.metrics[metric] for best in bests]
    chosen: dict[int, None] = {}
    for group in range(len(report.groups)):
        of_group = [i for i, x in enumerate(report.group_of) if x == group]
        chosen |= dict.fromkeys([min(of_group, key=lambda i: values[i])] if of_group else [])
        chosen |= dict.fromkeys([i for i in of_group if runs[i].summary.error][:1])
    return sorted(list(chosen | dict.fromkeys(range(len(runs))))[:most])


def table_of_varied(report: Report) -> Table:
    """Returns the settings in which the groups differ, a row for each group."""
    recorded = [settings for settings in report.groups.values() if settings]
    names = dict.fromkeys(name for settings in recorded for name in settings)
    varied = [name for name in names if len({settings.get(name) for settings in recorded}) > 1]
    varied.sort(key=lambda name: "." in name)  # macros first
    rows = [
        [group, *(settings.get(name, "-") for name in varied)]
        for group, settings in report.groups.items()
    ]
    return Table(["Name", *varied], rows)


def overview_of(runs: Sequence[RunFacts], metric: str | None) -> Table:
    """Returns state, steps, best and last value of the metric, and speed of runs."""
    summaries = [run.summary for run in runs]
    metric = metric or metric_of([x.metrics for x in summaries], None)
    bests = [x.best(metric) for x in summaries]
    marked = mark_best([math.nan if b is None else b.metrics[metric] for b in bests], metric)
    rows = [
        [
            x.name,
            x.state + (f": {x.error.partition('; ')[0]}" if x.error else ""),
            _step(x),
            value,
            "-" if best is None else f"{best.step:,}",
            metric_text(x.last(metric)),
            speed_text(x),
        ]
        for x, best, value in zip(summaries, bests, marked, strict=True)
    ]
    headings = ["Run", "State", "Step", f"Best {metric}", "At step", f"Last {metric}", "Speed"]
    return Table(headings, rows)


def _cost(cost: RunCost) -> list[tuple[str, str]]:
    rows = []
    if cost.parameters is not None:
        active = cost.active_parameters
        more = f", {active:,} active" if active not in (None, cost.parameters) else ""
        rows.append(("Parameters", f"{cost.parameters:,}{more}"))
    if cost.flops_per_token is not None:
        rows.append(("Operations a token", f"{cost.flops_per_token:.3g}"))
    if cost.seconds is not None:
        rows.append(("Time of training", duration_text(cost.seconds)))
    return rows


def _step(summary: RunSummary) -> str:
    total = f" of {summary.status.train_steps:,}" if summary.status else ""
    return f"{summary.step:,}{total}"
