"""Charts by Bokeh, whose script is part of the file: zoom, and values under the pointer."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtfrun.errors import InputError, install_command
from mtfrun.tools.report.charts import EVAL, Chart, Series

try:
    from bokeh.embed import json_item
    from bokeh.models import (
        BasicTicker,
        ColumnDataSource,
        DataRange1d,
        HoverTool,
        NumeralTickFormatter,
    )
    from bokeh.models.renderers import DataRenderer
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
    """Returns JSON for `Bokeh.embed.embed_item`; renderers have the index of the group as a tag."""
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
    lines: list[DataRenderer] = []
    for series in chart.series:
        steps, values = series.steps.astype(np.float64), series.values
        source = ColumnDataSource({"x": steps, "y": values})
        look: dict[str, Any] = {"color": colour_of(series), "source": source}
        dash = [6, 3] if series.kind == EVAL else "solid"
        line = plot.line("x", "y", line_width=2, line_dash=dash, **look)
        drawn: list[DataRenderer] = [line]
        if series.kind == EVAL or len(steps) <= _MARKED_POINTS:
            drawn.append(plot.scatter("x", "y", size=6 if series.kind == EVAL else 4, **look))
        for renderer in drawn:
            renderer.name = series.name
            renderer.tags = [series.group]
        lines.append(line)
    plot.add_tools(
        HoverTool(
            renderers=lines,
            tooltips=[("", "$name"), ("step", "@x{0,0}"), ("value", "@y{0.00000}")],
            line_policy="nearest",
            mode="vline" if len(lines) <= _READ_TOGETHER else "mouse",
        )
    )
    return dict(json_item(plot))
