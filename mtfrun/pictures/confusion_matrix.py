"""Picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.pictures.canvas import (
    RIGHT,
    TEXT,
    WIDTH,
    WRONG,
    as_pixels,
    new_figure,
    placed_axes,
    plain,
    points,
    shortened,
)

# Bounds of the side of the matrix and of a cell, in pixels.
_MOST_SIDE, _MOST_CELL = 640, 72
# Least size of cells with counts, and of cells with names of classes.
_NUMBERED, _NAMED = 22, 9
_MOST_NAME = 14
_TOP, _RIGHT_MARGIN = 28, 12


def confusion_matrix(counts: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Returns a picture of a confusion matrix, uint8 [height, width, 3].

    Rows are true classes, columns predicted ones. The strength of the colour is the square root of
    the count's share of its row, so that rare errors are visible: blue on the diagonal, orange
    elsewhere.

    Args:
      counts: [classes, predicted].
      label_names: names of the classes.
    """
    classes = len(label_names)
    is_named = _MOST_SIDE / classes >= _NAMED
    names = [plain(shortened(name, _MOST_NAME)) for name in label_names] if is_named else []
    longest = max(map(len, names), default=0)
    margin = 36 + round(7 * longest)
    # In the width of a card, unless the cells would be too small for their numbers.
    cell = max((WIDTH - margin - _RIGHT_MARGIN) / classes, min(_NUMBERED, _MOST_SIDE / classes))
    side = round(min(cell, _MOST_CELL) * classes)
    cell, size = side / classes, min(11.0, cell) if is_named else 11.0
    width = max(margin + side + _RIGHT_MARGIN, WIDTH)
    figure = new_figure(width, _TOP + side + margin)
    axes = placed_axes(figure, margin, _TOP, side, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(_colours(np.sqrt(shares)), interpolation="nearest" if cell >= 2 else "antialiased")
    axes.set_title(_title(counts), fontsize=points(12), color=TEXT)
    axes.set_xlabel("predicted class", fontsize=points(12), color=TEXT)
    axes.set_ylabel("true class", fontsize=points(12), color=TEXT)
    axes.tick_params(labelsize=points(size), colors=TEXT, length=2)
    if is_named:
        turned = 90 if longest > 3 else 0
        axes.set_xticks(range(classes), names, rotation=turned)
        axes.set_yticks(range(classes), names)
    if cell >= _NUMBERED:
        for (row, column), count in np.ndenumerate(np.rint(counts).astype(int)):
            if count:
                colour = "white" if shares[row, column] > 0.3 else "black"
                text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
                axes.text(
                    *(column, row, text),
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=points(min(max(10.0, cell / 3), 14.0)),
                )
    return as_pixels(figure)


def _title(counts: np.ndarray) -> str:
    total = counts.sum()
    return f"{np.trace(counts):,.0f} of {total:,.0f} right" if total else "no examples"


def _colours(strength: np.ndarray) -> np.ndarray:
    """Returns [classes, predicted, 3] from 0 to 1: white for 0, the full colour for 1."""
    right, wrong = (
        np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for name in (RIGHT, WRONG)
    )
    full = np.where(np.eye(len(strength), dtype=bool)[:, :, np.newaxis], right, wrong)
    return np.asarray(1.0 + strength[:, :, np.newaxis] * (full - 1.0))
