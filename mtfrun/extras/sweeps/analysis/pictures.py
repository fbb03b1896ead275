"""Pictures of sweeps: of a scaling law, and of the best value of a setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mtfrun.display.pictures.canvas import PALETTE, SEQUENTIAL, TEXT, WRONG, Canvas, plain, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 720, 460
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 34, 16, 50


class SizeCurve(NamedTuple):
    """Models of one size.

    Attributes:
      name: such as "418k".
      operations: operations of the fitted curve.
      losses: losses of the fitted curve.
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

    canvas, axes = _axes("floating-point operations of the training", metric)
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
    axes.legend(fontsize=points(11), frameon=False, labelcolor=TEXT)
    return canvas


class SettingCurve(NamedTuple):
    """One row of a sweep over a setting.

    Attributes:
      values: values of the setting.
      means: means of the metric at these values.
      best: the value with the best metric, and the metric there; None where it is not known.
    """

    name: str
    values: Sequence[float]
    means: Sequence[float]
    best: tuple[float, float] | None


def setting_curves(curves: Sequence[SettingCurve], *, setting: str, metric: str) -> Canvas:
    """Draws a metric against the logarithm of a setting, a curve of every row with its best."""
    canvas, axes = _axes(f"{setting} (stars: minima of parabolas)", metric)
    axes.set_xscale("log", base=2)
    for i, curve in enumerate(curves):
        colour = PALETTE[i % len(PALETTE)]
        axes.plot(
            *(curve.values, curve.means, "o-"), color=colour, ms=4, lw=1.0, label=plain(curve.name)
        )
        if curve.best is not None:
            axes.plot(*([x] for x in curve.best), "*", color=colour, ms=11)
    ticks = sorted({value for curve in curves for value in curve.values})[::2]
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.legend(fontsize=points(11), frameon=False, labelcolor=TEXT)
    return canvas


def _axes(horizontal: str, metric: str) -> tuple[Canvas, Axes]:
    """Returns a picture whose vertical axis has a metric, with labels and a grid."""
    canvas = Canvas(_WIDTH, _HEIGHT)
    axes = canvas.axes(_LEFT, _TOP, _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
    axes.grid(color="#dddddd", lw=0.6)
    axes.tick_params(labelsize=points(11), colors=TEXT)
    axes.set_xlabel(plain(horizontal), fontsize=points(12), color=TEXT)
    axes.set_title(plain(metric), fontsize=points(13), color=TEXT, loc="left")
    return canvas, axes
