"""Charts by Bokeh, whose script is part of the file: zoom, and values under the pointer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtfrun.errors import InputError, install_command
from mtfrun.extras.report.charts import EVAL, Chart, Series

try:
    from bokeh.embed import json_item
    from bokeh.models import (
        BasicTicker,
        BooleanFilter,
        CDSView,
        ColumnDataSource,
        DataRange1d,
        HoverTool,
        NumeralTickFormatter,
    )
    from bokeh.plotting import figure
    from bokeh.resources import Resources
except ImportError as error:
    raise InputError(f"a report needs Bokeh ({error}): {install_command('bokeh')}") from error

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
        x_range=DataRange1d(range_padding=0.02),
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
    plot.xaxis.ticker = BasicTicker(min_interval=1)  # steps are whole numbers
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    # One renderer for all curves: each costs thousands of bytes, and time in the browser.
    lines = plot.multi_line(
        "xs", "ys", color="color", line_dash="dash", line_width=2, **_lines(chart)
    )
    plot.scatter("x", "y", color="color", size=5, **_marks(chart))
    plot.add_tools(
        HoverTool(
            renderers=[lines],
            tooltips="<div>@name, step $snap_x{0,0}: <b>$snap_y{0.00000}</b></div>",
            line_policy="nearest",
            mode="vline" if len(chart.series) <= _READ_TOGETHER else "mouse",
        )
    )
    return dict(json_item(plot))


def _lines(chart: Chart) -> dict[str, Any]:
    columns = {
        "xs": [x.steps.tolist() for x in chart.series],
        "ys": [[float(f"{y:.6g}") for y in x.values] for x in chart.series],
        "name": [x.name for x in chart.series],
        "color": list(map(colour_of, chart.series)),
        "dash": ["dashed" if x.kind == EVAL else "solid" for x in chart.series],
        "group": [x.group for x in chart.series],
    }
    return _source(columns)


def _marks(chart: Chart) -> dict[str, Any]:
    marked = [x for x in chart.series if x.kind == EVAL or len(x.steps) <= _MARKED_POINTS]
    columns = {
        "x": [step for x in marked for step in x.steps.tolist()],
        "y": np.array([y for x in marked for y in x.values], np.float32),
        "color": [colour_of(x) for x in marked for _ in x.steps],
        "group": [x.group for x in marked for _ in x.steps],
    }
    return _source(columns)


def _source(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The page sets the filter where curves are hidden."""
    return {"source": ColumnDataSource(dict(columns)), "view": CDSView(filter=BooleanFilter())}
