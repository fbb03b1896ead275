from __future__ import annotations

import html
import math
from collections.abc import Sequence

from mtfrun.display import pictures
from mtfrun.extras.plan.plan import AVERAGES, PARAMETERS, SLOTS, Plan
from mtfrun.extras.plan.profile import Resources

_SVG_WIDTH = 800  # pixels


def picture_as_text(plan: Plan, resources: Resources) -> list[str]:
    """Returns lines with a cell for each device, and the bytes that it holds and sends."""
    num_rows, size = plan.mesh.shape[0].size, plan.mesh.size
    row_length = size // num_rows
    rows = range(min(num_rows, pictures.MOST_DEVICES))
    columns = range(min(row_length, pictures.MOST_DEVICES))
    width = max(len(f"{size - 1}"), 3) + 2
    border = "+" + "+".join(["-" * width] * len(columns)) + "+"
    lines = [_title(plan), border]
    for row in rows:
        cells = [f"{row * row_length + column}".center(width) for column in columns]
        lines += ["|" + "|".join(cells) + "|", border]
    hidden = size - len(rows) * len(columns)
    lines += [f"and {hidden} more devices"] * bool(hidden)
    scale = _full_bar(plan, resources)
    for name, num_bytes in _parts(plan):
        length = math.ceil(40 * num_bytes / scale) if num_bytes else 0
        lines.append(f"{name:<12}{num_bytes:>18,}  {'#' * length}")
    sent_bytes = plan.sent_bytes.items()
    return lines + [f"{axes:<12}{sent:>18,.0f}  sent a step" for axes, sent in sent_bytes]


def picture_as_svg(plan: Plan, resources: Resources) -> str:
    """Returns the mesh as SVG. A full bar is --device_memory or, without it, the peak."""
    picture = pictures.mesh_devices(
        {axis.name: axis.size for axis in plan.mesh.shape},
        dict(plan.mesh.layout),
        title=_title(plan),
        bars=[pictures.DeviceBar(name, num_bytes) for name, num_bytes in _parts(plan)],
        full_bar=_full_bar(plan, resources),
        lines=[
            f"{sent:,.0f} bytes sent a step over {axes}" for axes, sent in plan.sent_bytes.items()
        ],
        width=_SVG_WIDTH,
    )
    return picture.svg()


def picture_as_html(plan: Plan, resources: Resources, description: Sequence[str]) -> str:
    svg = picture_as_svg(plan, resources)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>plan</title></head>\n'
        f"<body>\n{svg[svg.index('<svg') :]}"
        f"<pre>{html.escape(chr(10).join(description))}</pre>\n</body></html>\n"
    )


def _title(plan: Plan) -> str:
    return f"{plan.mesh.shape.to_string}: {plan.peak_bytes:,} bytes on each of {plan.mesh.size}"


def _full_bar(plan: Plan, resources: Resources) -> int:
    return max(resources.device_memory or 0, plan.peak_bytes, 1)


def _parts(plan: Plan) -> list[tuple[str, int]]:
    kinds = [(kind, plan.device_bytes(kind)) for kind in (PARAMETERS, SLOTS, AVERAGES)]
    return [*kinds, ("step", plan.constant_bytes + plan.peak.num_bytes)]
