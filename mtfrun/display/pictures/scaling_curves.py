from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.display.pictures.canvas import SEQUENTIAL, TEXT, WRONG, Canvas, plain, points

_WIDTH, _HEIGHT = 720, 460
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 34, 16, 50


class SizeCurve(NamedTuple):
    """Models of one size.

    Attributes:
      name: such as "418k".
      operations: of the fitted curve.
      losses: of the fitted curve.
      runs: pairs of operations and loss.
      held_out: whether the curve was fitted without these runs.
    """

    name: str
    operations: np.ndarray
    losses: np.ndarray
    runs: Sequence[tuple[float, float]]
    held_out: bool


def scaling_curves(
    curves: Sequence[SizeCurve],
    frontier: tuple[np.ndarray, np.ndarray],
    *,
    metric: str,
    best: tuple[float, tuple[float, float, float]] | None,
) -> Canvas:
    """Draws losses against operations, both logarithmic: a curve of every size and its runs.

    frontier: operations and the lowest losses that they can reach; best: operations, and the loss
    at the frontier with the bounds of its interval.
    """
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter  # noqa: PLC0415

    canvas = Canvas(_WIDTH, _HEIGHT)
    axes = canvas.axes(_LEFT, _TOP, _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # The lightest colours would be hard to see on white.
    colours = colormaps[SEQUENTIAL](np.linspace(0.0, 0.85, len(curves)))
    for curve, colour in zip(curves, colours, strict=True):
        style = "--" if curve.held_out else "-"
        name = f"{curve.name} parameters{', held out' if curve.held_out else ''}"
        axes.plot(curve.operations, curve.losses, style, color=colour, lw=1.3)
        face = "white" if curve.held_out else colour
        axes.plot(
            *zip(*curve.runs, strict=True), "o", mec=colour, mfc=face, ms=5, label=plain(name)
        )
    axes.plot(*frontier, ":", color=TEXT, lw=1.3, label="lowest loss for the operations")
    if best is not None:
        budget, (loss, low, high) = best
        bounds = [[max(loss - low, 0.0)], [max(high - loss, 0.0)]]
        axes.errorbar(budget, loss, bounds, fmt="*", color=WRONG, ms=11, capsize=3, label="advice")
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(color="#dddddd", lw=0.6)
    axes.tick_params(labelsize=points(11), colors=TEXT)
    axes.set_xlabel("floating-point operations of the training", fontsize=points(12), color=TEXT)
    axes.set_title(plain(metric), fontsize=points(13), color=TEXT, loc="left")
    axes.legend(fontsize=points(11), frameon=False, labelcolor=TEXT)
    return canvas
