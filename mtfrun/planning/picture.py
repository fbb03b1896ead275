"""A picture of a mesh: what its devices hold, and what they send along its axes."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

from mtfrun.planning.collectives import group_collectives
from mtfrun.planning.plan import AVERAGES, PARAMETERS, SLOTS, Plan
from mtfrun.planning.resources import Resources

# The most devices that are drawn along a side; the others are counted.
_MOST = 8
_COLOURS = {PARAMETERS: "#4477aa", SLOTS: "#66ccee", AVERAGES: "#228833", "step": "#ccbb44"}
_CELL, _BAR, _GAP, _TOP = 96, 14, 12, 96


def picture_as_text(plan: Plan, resources: Resources) -> list[str]:
    """Returns lines with a cell for each device, and the bytes that it holds and sends."""
    rows, columns, hidden = _grid(plan)
    width = max(len(f"{plan.mesh.size - 1}"), 3) + 2
    border = "+" + "+".join(["-" * width] * len(columns)) + "+"
    lines = [f"{_title(plan)}", border]
    for row in rows:
        cells = [f"{row * _stride(plan) + column}".center(width) for column in columns]
        lines += ["|" + "|".join(cells) + "|", border]
    lines += [f"and {hidden} more devices"] * bool(hidden)
    scale = max(resources.device_memory or 0, plan.peak_bytes)
    for name, num_bytes in _parts(plan):
        length = math.ceil(40 * num_bytes / scale) if num_bytes else 0
        lines.append(f"{name:<12}{num_bytes:>18,}  {'#' * length}")
    return lines + [f"{axes:<12}{sent:>18,}  sent a step" for axes, sent in _sent(plan)]


def picture_as_svg(plan: Plan, resources: Resources) -> str:
    """Returns the mesh as SVG: in the box of every device, bars of what it holds.

    A full bar is --device_memory or, without it, the peak.
    """
    rows, columns, hidden = _grid(plan)
    width = max(len(columns) * (_CELL + _GAP) + 2 * _GAP, 560)
    height = _TOP + len(rows) * (_CELL + _GAP) + 22 * (len(_sent(plan)) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        _text(_GAP, 20, _title(plan)),
        *_legend(plan),
    ]
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        x, y = _GAP + j * (_CELL + _GAP), _TOP + i * (_CELL + _GAP)
        parts += _box(x, y, row * _stride(plan) + column, plan, resources)
    y = _TOP + len(rows) * (_CELL + _GAP) + 12
    lines = [f"{sent:,} bytes sent a step over {axes}" for axes, sent in _sent(plan)]
    lines += [f"and {hidden} more devices"] * bool(hidden)
    parts += [_text(_GAP, y + 20 * i, line) for i, line in enumerate(lines)]
    return "\n".join([*parts, "</svg>\n"])


def picture_as_html(plan: Plan, resources: Resources, description: Sequence[str]) -> str:
    """Returns a page with the picture and the description."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>plan</title></head>\n'
        f"<body>\n{picture_as_svg(plan, resources)}"
        f"<pre>{html.escape(chr(10).join(description))}</pre>\n</body></html>\n"
    )


def _grid(plan: Plan) -> tuple[range, range, int]:
    """Returns the drawn rows and columns, and the number of devices that are not drawn."""
    rows = range(min(plan.mesh.size // _stride(plan), _MOST))
    columns = range(min(_stride(plan), _MOST))
    return rows, columns, plan.mesh.size - len(rows) * len(columns)


def _stride(plan: Plan) -> int:
    """Returns the number of devices in a row: those along all axes but the first."""
    return plan.mesh.size // plan.mesh.shape[0].size


def _title(plan: Plan) -> str:
    return f"{plan.mesh.shape.to_string}: {plan.peak_bytes:,} bytes on each of {plan.mesh.size}"


def _parts(plan: Plan) -> list[tuple[str, int]]:
    kinds = [(kind, plan.device_bytes(kind)) for kind in (PARAMETERS, SLOTS, AVERAGES)]
    return [*kinds, ("step", plan.constant_bytes + plan.peak.num_bytes)]


def _sent(plan: Plan) -> list[tuple[str, int]]:
    """Returns the bytes that a device sends in a step, by axes."""
    sent: dict[str, int] = {}
    for group in group_collectives(plan.collectives, plan.mesh):
        axes = ",".join(group.axes)
        sent[axes] = sent.get(axes, 0) + group.sent_bytes
    return sorted(sent.items())


def _legend(plan: Plan) -> list[str]:
    parts = []
    for i, (name, num_bytes) in enumerate(_parts(plan)):
        x, y = _GAP + 280 * (i % 2), 34 + 20 * (i // 2)
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{_COLOURS[name]}"/>')
        parts.append(_text(x + 18, y + 11, f"{name}: {num_bytes:,} bytes"))
    return parts


def _box(x: int, y: int, number: int, plan: Plan, resources: Resources) -> list[str]:
    scale = max(resources.device_memory or 0, plan.peak_bytes, 1)
    parts = [
        f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="none" stroke="#555555"/>',
        _text(x + 6, y + 16, str(number)),
    ]
    for i, (name, num_bytes) in enumerate(_parts(plan)):
        length = round((_CELL - 12) * num_bytes / scale, 1)
        top = y + 24 + i * (_BAR + 3)
        parts.append(
            f'<rect x="{x + 6}" y="{top}" width="{length}" height="{_BAR}" '
            f'fill="{_COLOURS[name]}"/>'
        )
    return parts


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}">{html.escape(text)}</text>'
