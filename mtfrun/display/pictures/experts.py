from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.display.pictures.canvas import (
    HEIGHT,
    SEQUENTIAL,
    TEXT,
    WIDTH,
    Canvas,
    plain,
    points,
    shorten,
)

# Bounds of the pixels of a row of the map.
_LEAST_ROW, _MOST_ROW = 14, 28
# Pixels of the text above and below the map, and of the legend at the right.
_TOP, _BOTTOM, _RIGHT = 24, 36, 48
# Least width of a cell with a number, and of one with its expert's number below it.
_NUMBERED, _LABELLED = 24, 16
_MOST_HEIGHT = 1200
# Loads from here on have one colour.
_BUSY = 2.0


def expert_loads(loads: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3] of loads [layers, experts]; 1 is a fair share."""
    rows, experts = loads.shape
    names = [plain(shorten(name, 20)) for name in layers]
    left = 14 + round(6.4 * max(map(len, names)))
    row_height = min(max((HEIGHT - _TOP - _BOTTOM) // rows, _LEAST_ROW), _MOST_ROW)
    height = min(row_height * rows, _MOST_HEIGHT)
    canvas = Canvas(WIDTH, _TOP + height + _BOTTOM)
    axes = canvas.axes(left, _TOP, WIDTH - left - _RIGHT, height)
    image = axes.imshow(
        loads, cmap=SEQUENTIAL, vmin=0.0, vmax=_BUSY, aspect="auto", interpolation="nearest"
    )
    small, normal = points(10.5), points(12)
    axes.set_title("load of experts (1: an equal share)", fontsize=normal, color=TEXT)
    axes.set_xlabel("expert", fontsize=normal, color=TEXT)
    cell = (WIDTH - left - _RIGHT) / experts
    every = max(1, int(np.ceil(_LABELLED / cell)))
    axes.set_xticks(range(0, experts, every))
    axes.set_yticks(range(rows), names)
    axes.tick_params(labelsize=small, colors=TEXT, length=2)
    if cell >= _NUMBERED and height / rows >= _LEAST_ROW:
        for (row, column), load in np.ndenumerate(loads):
            colour = "white" if load < 0.9 else "black"
            axes.text(
                column, row, f"{load:.2f}", ha="center", va="center", color=colour, fontsize=small
            )
    legend = canvas.axes(WIDTH - _RIGHT + 10, _TOP, 12, height)
    bar = canvas.figure.colorbar(image, cax=legend, extend="max", ticks=[0.0, 1.0, 2.0])
    bar.ax.tick_params(labelsize=small, colors=TEXT, length=2)
    return canvas.pixels()
