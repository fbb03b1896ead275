"""The charts of a report: curves of runs, thinned out, drawn by Bokeh, which a page contains."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun.errors import InputError, install_command
from mtfrun.errors.untrusted import escape
from mtfrun.metrics.catalogue import chart_patterns
from mtfrun.metrics.curves import Curves, choose_steps
from mtfrun.metrics.tags import description_of

try:
    from bokeh import models
    from bokeh.embed import json_item
    from bokeh.plotting import figure
    from bokeh.resources import Resources
except ImportError as error:
    raise InputError(f"a report needs Bokeh ({error}): {install_command('bokeh')}") from error

TRAIN, EVAL = "train", "eval"
KINDS = {TRAIN: "training", EVAL: "evaluation"}
EXPERTS = "Mixture of experts"
"""The category of the charts about the use of experts."""

# The category of curves that no chart of the catalogue has, such as of a user's action.
_FURTHER = "Further curves"
_MOST_FURTHER = 12
# With several runs a chart of more curves of one run, such as a curve for each layer, is left out.
_MOST_OF_A_RUN = 4
# Steps in the table below a chart.
_TABLE_STEPS = 12


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve: int [points], float [points]. `kind` is TRAIN or EVAL, which the name says too.

    `colour` counts the colours of a chart; `group` is the index of the run's group.
    """

    name: str
    kind: str
    group: int
    colour: int
    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves by step, with one vertical axis; `text` explains a single tag."""

    number: int  # its index in the page
    category: str
    title: str
    text: str
    series: Sequence[Series]

    @property
    def headings(self) -> list[str]:
        return ["Step", *(x.name for x in self.series)]

    @property
    def rows(self) -> list[list[str]]:
        """Values of the curves at some steps."""
        by_step = [dict(zip(x.steps.tolist(), x.values.tolist(), strict=True)) for x in self.series]
        evaluations = {step for x in self.series if x.kind == EVAL for step in x.steps.tolist()}
        steps = choose_steps({s for values in by_step for s in values}, evaluations, _TABLE_STEPS)
        return [
            [f"{step:,}", *(f"{values[step]:.5g}" if step in values else "" for values in by_step)]
            for step in steps
        ]

    @property
    def non_finite(self) -> int:
        return sum(int((~np.isfinite(x.values)).sum()) for x in self.series)


def charts_of(
    runs: Sequence[tuple[str, int, Mapping[str, Curves]]], points: int, most: int | None = None
) -> list[Chart]:
    """Returns charts of runs, each with its name, group, and curves by "train" and "eval".

    With `most` only the first charts. The runs of a group have one colour; the curves of a single
    run have a colour for each tag. All curves have about `points` points, each at most 1,000.
    """
    tags = [tag for *_, curves in runs for part in curves.values() for tag in part]
    points = math.floor(min(1000, max(10, points / max(1, len(tags)))))
    tags = sorted({*tags})
    charted = [
        (category, title, [tag for tag in tags if re.fullmatch(pattern, tag)])
        for category, title, pattern in chart_patterns(tags)
    ]
    further = [tag for tag in tags if not any(tag in chosen for *_, chosen in charted)]
    charted += [(_FURTHER, description_of(tag).title, [tag]) for tag in further[:_MOST_FURTHER]]
    charts: list[Chart] = []
    for category, title, chosen in charted:
        if len(charts) == most or (len(runs) > 1 and len(chosen) > _MOST_OF_A_RUN):
            continue
        series = list(_series(runs, chosen, points))
        if series:
            text = description_of(chosen[0]).text if len(chosen) == 1 else ""
            charts.append(Chart(len(charts), category, title, text.replace("`", ""), series))
    return charts


def _series(
    runs: Sequence[tuple[str, int, Mapping[str, Curves]]], tags: Sequence[str], points: int
) -> Iterator[Series]:
    names = distinct_parts(tags)
    for run, group, curves in runs:
        for number, (tag, part) in enumerate(zip(tags, names, strict=True)):
            for kind in (TRAIN, EVAL):
                curve = curves.get(kind, {}).get(tag)
                if not curve:
                    continue
                colour = int(kind == EVAL) if len(tags) == 1 else number
                if len(runs) > 1:
                    colour = group
                name = ", ".join(filter(None, [run if len(runs) > 1 else "", part, KINDS[kind]]))
                steps = np.array(sorted(curve), np.int64)
                values = np.array([curve[step] for step in steps.tolist()], np.float64)
                chosen = thin_out(values, points)
                yield Series(escape(name), kind, group, colour, steps[chosen], values[chosen])


def distinct_parts(tags: Sequence[str]) -> list[str]:
    """Returns tags without the directories that all of them begin and end with.

    >>> distinct_parts(["moe/block_0/dropped", "moe/block_1/dropped"])
    ['block_0', 'block_1']
    >>> distinct_parts(["loss"])
    ['']
    """
    if len(tags) == 1:
        return [""]
    parts = [tag.split("/") for tag in tags]
    for end in (0, -1):
        while min(map(len, parts)) > 1 and len({x[end] for x in parts}) == 1:
            for x in parts:
                del x[end]
    return ["/".join(x) for x in parts]


def thin_out(values: np.ndarray, points: int) -> np.ndarray:
    """Returns the indices of at most about `points` values: of equal parts the extremes.

    values: [n]. A peak of one step remains, as do the ends.
    """
    n = len(values)
    if n <= points:
        return np.arange(n)
    chosen = {0, n - 1}
    for part in np.array_split(np.arange(n), max(1, points // 2)):
        finite = part[np.isfinite(values[part])]
        candidates = finite if len(finite) else part[:1]
        x = values[candidates]
        chosen |= {int(candidates[np.argmin(x)]), int(candidates[np.argmax(x)])}
    return np.array(sorted(chosen))


# Each has a contrast of at least 3:1 to the light and to the dark background.
COLOURS = (
    *("#3b82c4", "#d9660c", "#2a9d4e", "#d6404e", "#9d5bd2"),
    *("#13929c", "#a5713d", "#d14f9c", "#7c7c7c", "#8a8f1d"),
)

_HEIGHT = 260
# Of at most so many points each has a mark.
_MARKED_POINTS = 40
# At most so many curves show their values at a step together; of more, the one under the pointer.
_READ_TOGETHER = 6


def library() -> str:
    """Returns Bokeh's script with its licence."""
    return "\n".join(Resources(mode="inline", minified=True, components=["bokeh"]).js_raw)


def colour_of(series: Series) -> str:
    return COLOURS[series.colour % len(COLOURS)]


def draw(chart: Chart) -> dict[str, Any]:
    """Returns JSON for `Bokeh.embed.embed_item`; columns have the index of the group."""
    plot = figure(
        height=_HEIGHT,
        x_range=models.DataRange1d(range_padding=0.02),
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag="box_zoom",
        active_scroll=None,
        toolbar_location="above",
        output_backend="canvas",
        background_fill_alpha=0.0,
        border_fill_alpha=0.0,
        outline_line_color=None,
        min_border_right=16,
    )
    plot.toolbar.logo = None
    plot.xaxis.ticker = models.BasicTicker(min_interval=1)  # steps are whole numbers
    plot.xaxis.formatter = models.NumeralTickFormatter(format="0,0")
    # One renderer for all curves: each costs thousands of bytes, and time in the browser.
    lines = plot.multi_line(
        "xs", "ys", color="color", line_dash="dash", line_width=2, **_lines(chart)
    )
    plot.scatter("x", "y", color="color", size=5, **_marks(chart))
    plot.add_tools(
        models.HoverTool(
            renderers=[lines],
            tooltips="<div>@name, step $snap_x{0,0}: <b>$snap_y{0.00000}</b></div>",
            line_policy="nearest",
            mode="vline" if len(chart.series) <= _READ_TOGETHER else "mouse",
        )
    )
    return dict(json_item(plot))


def _lines(chart: Chart) -> dict[str, Any]:
    return _source(
        xs=[x.steps.tolist() for x in chart.series],
        ys=[[float(f"{y:.6g}") for y in x.values] for x in chart.series],
        name=[x.name for x in chart.series],
        color=list(map(colour_of, chart.series)),
        dash=["dashed" if x.kind == EVAL else "solid" for x in chart.series],
        group=[x.group for x in chart.series],
    )


def _marks(chart: Chart) -> dict[str, Any]:
    marked = [x for x in chart.series if x.kind == EVAL or len(x.steps) <= _MARKED_POINTS]
    return _source(
        x=[step for x in marked for step in x.steps.tolist()],
        y=np.array([y for x in marked for y in x.values], np.float32),
        color=[colour_of(x) for x in marked for _ in x.steps],
        group=[x.group for x in marked for _ in x.steps],
    )


def _source(**columns: Any) -> dict[str, Any]:
    """The page sets the filter where curves are hidden."""
    return {
        "source": models.ColumnDataSource(columns),
        "view": models.CDSView(filter=models.BooleanFilter()),
    }
