"""Figures in units of pixels, without matplotlib's global state.

TensorBoard's Images scales pictures to the width of its cards, Time Series into a box of a fixed
height, both without smoothing: letters are legible at this width, in pictures that are not higher.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtfrun.errors import errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 350
"""The width of the cards of TensorBoard's page Images in pixels."""

HEIGHT = 215
"""The height of the pictures in the cards of its page Time Series."""

TEXT = "#222222"
# Okabe & Ito 2008, "Color universal design": told apart by people with any colour vision.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00", "#999999")
RIGHT, WRONG = "#0072B2", "#D55E00"
"""The colours of correct and of incorrect predictions."""

SEQUENTIAL = "cividis"
"""The colour map of numbers: its lightness grows evenly for people with any colour vision."""

MONO = "DejaVu Sans Mono"

_DPI = 100
_FONT = "DejaVu Sans"  # comes with matplotlib


def points(pixels: float) -> float:
    return pixels * 72 / _DPI


class Canvas:
    """A figure of that size in pixels; places are in pixels from the upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure  # noqa: PLC0415

        size = (width / _DPI, height / _DPI)
        self.figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
        self._width, self._height = (_DPI * inches for inches in self.figure.get_size_inches())

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        place = (left / self._width, 1.0 - (top + height) / self._height)
        return self.figure.add_axes((*place, width / self._width, height / self._height))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        pixels: float = 12,
        *,
        centred: bool = False,
        bold: bool = False,
        colour: str = TEXT,
        family: str | None = None,
    ) -> None:
        self._whole.text(
            *(x, y, plain(text)),
            ha="center" if centred else "left",
            fontsize=points(pixels),
            color=colour,
            weight="bold" if bold else "normal",
            family=family,
        )

    def box(
        self, left: float, top: float, width: float, height: float, colour: str, name: str = ""
    ) -> None:
        """Draws a filled rectangle; `name` is its id in SVG."""
        from matplotlib.patches import Rectangle  # noqa: PLC0415

        patch = Rectangle((left, top), width, height, facecolor=colour, edgecolor="#666666", lw=0.7)
        patch.set_gid(name or None)
        self._whole.add_patch(patch)

    def pixels(self) -> np.ndarray:
        """Returns uint8 [height, width, 3]."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

        canvas: Any = FigureCanvasAgg(self.figure)  # without types
        canvas.draw()
        return np.array(np.asarray(canvas.buffer_rgba())[:, :, :3])

    def svg(self) -> str:
        """Returns SVG with texts as texts; the same figure gives the same bytes."""
        from matplotlib import rc_context  # noqa: PLC0415

        file = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mtfrun"}):
            self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    @functools.cached_property
    def _whole(self) -> Axes:
        """Axes over the whole figure, in pixels."""
        axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, self._width)
        axes.set_ylim(self._height, 0)
        return axes


def plain(text: str) -> str:
    """Escapes "$", which begins a formula; a box replaces characters that the font lacks."""
    available = _characters()
    shown = "".join(c if ord(c) in available else "\N{WHITE SQUARE}" for c in text)
    return shown.replace("$", r"\$")


def shorten(text: str, length: int) -> str:
    return errors.shorten(" ".join(text.split()), length, "…")


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font  # noqa: PLC0415

    return frozenset(get_font(findfont(_FONT)).get_charmap())


_BLOCK = re.compile(r"(?:(?P<stack>\w+)_stack/)?blocks/(?P<number>\d+)(?:/|$)")


def layer_names(paths: Sequence[str]) -> list[str]:
    """Returns the names of the layers that paths lead to, without their common part.

    >>> layer_names(["decoder_stack/blocks/0/moe_1d", "decoder_stack/blocks/2/moe_1d"])
    ['layer 0', 'layer 2']
    """
    names = [layer_name(path) for path in paths]
    stacks = {name.partition(" layer ")[0] for name in names if " layer " in name}
    if len(stacks) == 1:
        names = [name.removeprefix(f"{next(iter(stacks))} ") for name in names]
    return names


def layer_name(path: str) -> str:
    """Returns the name of the layer that a module's path leads to.

    >>> layer_name("decoder_stack/blocks/3/moe_2d/layer")
    'decoder layer 3'
    >>> layer_name("blocks/0/moe_1d"), layer_name("head/moe_1d")
    ('layer 0', 'head/moe_1d')
    """
    match = _BLOCK.search(path)
    if match is None:
        return path
    return " ".join(part for part in (match["stack"], "layer", match["number"]) if part)
