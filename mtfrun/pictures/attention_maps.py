"""Attention weights of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun.pictures.canvas import (
    SEQUENTIAL,
    TEXT,
    WIDTH,
    as_pixels,
    new_figure,
    placed_axes,
    plain,
    points,
    shortened,
)

# Bounds of the pixels of a cell, and those of a map's title, an axis, and the legend.
_LEAST_CELL, _MOST_CELL, _TITLE, _AXIS, _RIGHT = 10, 24, 24, 20, 50
_MOST_TOKEN = 8


def attention_maps(
    weights: Mapping[str, np.ndarray], queries: Sequence[str], keys: Sequence[str]
) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3] with a map for every head, one below the other.

    Args:
      weights: by the name of the head, [queries, keys]; rows add up to 1.
      queries: the tokens that attend: a row each.
      keys: the tokens that they attend to: a column each.
    """
    from matplotlib.colors import PowerNorm  # noqa: PLC0415  small weights stay visible

    rows, columns = ([plain(shortened(t, _MOST_TOKEN)) for t in x] for x in (queries, keys))
    widths = [round(6.6 * max(map(len, names))) + 12 for names in (rows, columns)]
    left, bottom = widths[0] + _AXIS, widths[1] + _AXIS
    cell = min(max((WIDTH - left - _RIGHT) / len(keys), _LEAST_CELL), _MOST_CELL)
    width, height = round(cell * len(keys)), round(cell * len(queries))
    map_height = _TITLE + height + bottom
    figure = new_figure(max(left + width + _RIGHT, WIDTH), map_height * len(weights))
    for i, (head, of_head) in enumerate(weights.items()):
        top = i * map_height + _TITLE
        axes = placed_axes(figure, left, top, width, height)
        image = axes.imshow(of_head, cmap=SEQUENTIAL, norm=PowerNorm(0.5, 0.0, 1.0), aspect="auto")
        axes.set_title(plain(head), fontsize=points(12), color=TEXT, loc="left")
        axes.set_xticks(range(len(columns)), columns, rotation=90, family="DejaVu Sans Mono")
        axes.set_yticks(range(len(rows)), rows, family="DejaVu Sans Mono")
        axes.tick_params(labelsize=points(min(11, cell)), colors=TEXT, length=2)
        axes.set_xlabel("attended to", fontsize=points(11), color=TEXT)
        axes.set_ylabel("attends", fontsize=points(11), color=TEXT)
        legend = placed_axes(figure, left + width + 10, top, 12, height)
        bar = figure.colorbar(image, cax=legend, ticks=[0.0, 0.1, 0.5, 1.0])
        bar.ax.tick_params(labelsize=points(10), colors=TEXT, length=2)
    return as_pixels(figure)
