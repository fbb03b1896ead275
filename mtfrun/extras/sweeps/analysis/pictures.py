"""The axes of the pictures of sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtfrun.display.pictures.canvas import TEXT, Canvas, plain, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 720, 460
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 34, 16, 50


def plot_axes(horizontal: str, metric: str) -> tuple[Canvas, Axes]:
    """Returns a picture whose vertical axis has a metric, with labels and a grid."""
    canvas = Canvas(_WIDTH, _HEIGHT)
    axes = canvas.axes(_LEFT, _TOP, _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
    axes.grid(color="#dddddd", lw=0.6)
    axes.tick_params(labelsize=points(11), colors=TEXT)
    axes.set_xlabel(plain(horizontal), fontsize=points(12), color=TEXT)
    axes.set_title(plain(metric), fontsize=points(13), color=TEXT, loc="left")
    return canvas, axes
