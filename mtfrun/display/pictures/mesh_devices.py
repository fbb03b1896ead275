from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.display.pictures.canvas import PALETTE, WIDTH, Canvas

# The most devices that are drawn along a side; more are counted.
MOST_DEVICES = 8
_MARGIN, _LINE, _LEFT, _HEAD = 10, 18, 72, 22
_MOST_CELL, _BAR, _GAP = 96, 12, 8


class DeviceBar(NamedTuple):
    """`num_bytes` are on each device."""

    name: str
    num_bytes: int


def mesh_devices(
    mesh: Mapping[str, int],
    layout: Mapping[str, str],
    *,
    title: str,
    bars: Sequence[DeviceBar] = (),
    full_bar: int = 1,
    lines: Sequence[str] = (),
    width: int = WIDTH,
) -> Canvas:
    """Returns a picture with a box for every device: a row for each place along the first axis.

    The last axis moves fastest. `layout` has the axis of every split dimension; `full_bar` is the
    bytes of a bar as wide as the box.
    """
    rows_axis, *column_axes = mesh
    num_rows, num_columns = mesh[rows_axis], math.prod(mesh[axis] for axis in column_axes)
    rows, columns = min(num_rows, MOST_DEVICES), min(num_columns, MOST_DEVICES)
    cell = min(_MOST_CELL, (width - _LEFT - _MARGIN) / columns - _GAP)
    height_of_cell = max(34, 22 + len(bars) * (_BAR + 2))
    titles = _wrap([title], width)
    above = [_axis_text(axis, mesh[axis], layout) for axis in column_axes] or ["one column"]
    above = _wrap(above, width)
    below = [_axis_text(rows_axis, num_rows, layout, downwards=True)]
    hidden = num_rows * num_columns - rows * columns
    below += [f"and {hidden:,} more devices"] * bool(hidden)
    is_split = any(mesh.get(axis, 1) > 1 for axis in layout.values())
    below += ["all other dimensions are whole on every device"] * is_split
    below = _wrap([*below, *lines], width)
    legend_top = _MARGIN + _LINE * len(titles)
    above_top = legend_top + len(bars) * _LINE + _GAP * bool(bars)
    top = above_top + _LINE * len(above) + _HEAD
    bottom = top + rows * (height_of_cell + _GAP)
    canvas = Canvas(width, bottom + _LINE * len(below) + _MARGIN)
    _write_lines(canvas, titles, _MARGIN, bold=True)
    for i, bar in enumerate(bars):
        y = legend_top + _LINE * i
        canvas.box(_MARGIN, y + 2, 12, 12, PALETTE[i])
        canvas.text(_MARGIN + 18, y + 12, f"{bar.name}: {bar.num_bytes:,} bytes")
    _write_lines(canvas, above, above_top)
    for column in range(columns):
        places = np.unravel_index(column, tuple(mesh[axis] for axis in column_axes))
        place = ", ".join(map(str, places)) or "0"
        if len(column_axes) == 1 and cell > 60:
            place = f"{column_axes[0]} {place}"
        canvas.text(_LEFT + column * (cell + _GAP) + cell / 2, top - 6, place, centred=True)
    for row in range(rows):
        y = top + row * (height_of_cell + _GAP)
        canvas.text(_MARGIN, y + 20, f"{rows_axis} {row}")
        for column in range(columns):
            x = _LEFT + column * (cell + _GAP)
            device = row * num_columns + column
            _device(canvas, (x, y, cell, height_of_cell), device, bars, full_bar)
    _write_lines(canvas, below, bottom + 4)
    return canvas


def _wrap(lines: Sequence[str], width: int) -> list[str]:
    characters = (width - 2 * _MARGIN) // 7
    return [part for line in lines for part in textwrap.wrap(line, characters)]


def _write_lines(canvas: Canvas, lines: Sequence[str], top: float, *, bold: bool = False) -> None:
    for i, line in enumerate(lines):
        canvas.text(_MARGIN, top + _LINE * i + 12, line, bold=bold)


def _axis_text(axis: str, size: int, layout: Mapping[str, str], *, downwards: bool = False) -> str:
    """Returns a line such as "→ model (2): splits heads, d_ff"."""
    dims = [dim for dim, split_axis in layout.items() if split_axis == axis]
    what = f"splits {', '.join(dims)}" if dims else "splits nothing, holds copies"
    what = "one device, splits nothing" if size == 1 else what
    return f"{'↓' if downwards else '→'} {axis} ({size}): {what}"


def _device(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    device: int,
    bars: Sequence[DeviceBar],
    full_bar: int,
) -> None:
    x, y, width, height = box
    canvas.box(*box, "#f3f6fa", name=f"device_{device}")
    if not bars:
        canvas.text(x + width / 2, y + height / 2 + 5, str(device), centred=True, bold=True)
        return
    canvas.text(x + 5, y + 15, str(device), bold=True)
    for i, bar in enumerate(bars):
        length = (width - 8) * min(bar.num_bytes / full_bar, 1.0)
        top = y + 20 + i * (_BAR + 2)
        canvas.box(x + 4, top, length, _BAR, PALETTE[i], name=f"bar_{device}_{i}")
