from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun.display.pictures.canvas import (
    HEIGHT,
    MONO,
    SEQUENTIAL,
    TEXT,
    WIDTH,
    Canvas,
    plain,
    points,
    shorten,
)

# Bounds of the pixels of a cell.
_LEAST_CELL, _MOST_CELL = 8, 24
# Pixels of a map's title, of the space between two maps, of the margin, and of the legend.
_TITLE, _GAP, _MARGIN, _LEGEND = 17, 8, 6, 24
_MOST_TOKEN = 8


def attention_maps(
    weights: Mapping[str, np.ndarray], queries: Sequence[str], keys: Sequence[str]
) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3] of weights [queries, keys] for every head."""
    from matplotlib.colors import PowerNorm  # noqa: PLC0415  small weights stay visible

    rows, columns = ([shorten(token, _MOST_TOKEN) for token in x] for x in (queries, keys))
    # A character of a label is at most 6 pixels wide.
    left, bottom = (6 * max(map(len, names)) + 8 for names in (rows, columns))
    free = WIDTH - left - _MARGIN + _GAP
    maps_in_row = min(max(1, int(free // (_LEAST_CELL * len(keys) + _GAP))), len(weights))
    map_rows = -(-len(weights) // maps_in_row)
    rows, columns = ([plain(name) for name in names] for names in (rows, columns))
    cell = (free / maps_in_row - _GAP) / len(keys)
    if map_rows == 1:
        cell = min(cell, (HEIGHT - _LEGEND - _TITLE - bottom) / len(queries))
    cell = min(max(cell, _LEAST_CELL), _MOST_CELL)
    width, height = round(cell * len(keys)), round(cell * len(queries))
    map_height = _TITLE + height + bottom
    total_width = max(left + maps_in_row * (width + _GAP) - _GAP + _MARGIN, WIDTH)
    canvas = Canvas(total_width, map_height * map_rows + _LEGEND)
    for i, (head, of_head) in enumerate(weights.items()):
        row, column = divmod(i, maps_in_row)
        x, y = left + column * (width + _GAP), row * map_height + _TITLE
        axes = canvas.axes(x, y, width, height)
        image = axes.imshow(of_head, cmap=SEQUENTIAL, norm=PowerNorm(0.5, 0.0, 1.0), aspect="auto")
        axes.set_title(plain(head), fontsize=points(11), color=TEXT, loc="left", pad=3)
        axes.set_xticks(range(len(columns)), columns, rotation=90, family=MONO)
        axes.set_yticks(range(len(rows)), rows if column == 0 else [], family=MONO)
        axes.tick_params(labelsize=points(min(10, cell)), colors=TEXT, length=1, pad=2)
    _draw_legend(canvas, image, map_height * map_rows, total_width)
    return canvas.pixels()


def _draw_legend(canvas: Canvas, image: Any, top: float, width: float) -> None:
    text = canvas.axes(0, top, width, _LEGEND)
    text.set_axis_off()
    what = "a row attends to a column:"
    text.text(
        _MARGIN / width, 0.45, what, fontsize=points(11), color=TEXT, transform=text.transAxes
    )
    scale = canvas.axes(175, top + 2, WIDTH - 175 - 2 * _MARGIN - 4, 8)
    bar = canvas.figure.colorbar(
        image, cax=scale, orientation="horizontal", ticks=[0.0, 0.1, 0.5, 1.0]
    )
    bar.ax.tick_params(labelsize=points(10), colors=TEXT, length=2, pad=1)
