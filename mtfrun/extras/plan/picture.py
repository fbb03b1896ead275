from __future__ import annotations

import html
from collections.abc import Sequence

from mtfrun.display import pictures
from mtfrun.extras.plan.plan import AVERAGES, PARAMETERS, SLOTS, Plan
from mtfrun.extras.plan.profile import Resources

_SVG_WIDTH = 800  # pixels


def picture_as_svg(plan: Plan, resources: Resources) -> str:
    """Returns the mesh as SVG. A full bar is --device_memory or, without it, the peak."""
    parts = {kind: plan.device_bytes(kind) for kind in (PARAMETERS, SLOTS, AVERAGES)}
    parts["step"] = plan.constant_bytes + plan.peak.num_bytes
    picture = pictures.mesh_devices(
        {axis.name: axis.size for axis in plan.mesh.shape},
        dict(plan.mesh.layout),
        title=f"{plan.mesh.shape.to_string}: {plan.peak_bytes:,} bytes on each of {plan.mesh.size}",
        bars=[pictures.DeviceBar(name, num_bytes) for name, num_bytes in parts.items()],
        full_bar=max(resources.device_memory or 0, plan.peak_bytes, 1),
        lines=[
            f"{sent:,.0f} bytes sent a step over {axes}" for axes, sent in plan.sent_bytes.items()
        ],
        width=_SVG_WIDTH,
    )
    return picture.svg()


def picture_as_html(svg: str, description: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>plan</title></head>\n'
        f"<body>\n{svg[svg.index('<svg') :]}"
        f"<pre>{html.escape(chr(10).join(description))}</pre>\n</body></html>\n"
    )
