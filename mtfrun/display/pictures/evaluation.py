"""Pictures of an evaluation: classes that are confused, images, loads of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.display.pictures.canvas import (
    HEIGHT,
    RIGHT,
    SEQUENTIAL,
    TEXT,
    WIDTH,
    WRONG,
    Canvas,
    plain,
    points,
    shorten,
)

# Bounds of the side of the matrix and of a cell, in pixels.
_MOST_SIDE, _MOST_CELL = 640, 72
# Least size of cells with counts, and of cells with names of classes.
_NUMBERED, _NAMED = 14, 9
_MOST_NAME = 14
# Pixels above and below the matrix, and at its right; left of it, without the names.
_TOP, _BOTTOM, _RIGHT_MARGIN, _LEFT = 20, 36, 12, 36
# A longer name stands at its row only, and its number at its column.
_LONG = 2


def confusion_matrix(counts: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3] of counts [classes, predicted].

    The colour's strength is the square root of a row's share, so that rare errors are visible.
    """
    classes = len(label_names)
    # In the height of a card, unless the cells would be too small for their numbers.
    cell = max((HEIGHT - _TOP - _BOTTOM) / classes, min(_NUMBERED, _MOST_SIDE / classes))
    side = round(min(cell, _MOST_CELL) * classes)
    cell = side / classes
    rows, columns = _labels(label_names) if cell >= _NAMED else ([], [])
    size = min(11.0, cell) if rows else 11.0
    left = _LEFT + round(0.62 * size * max(map(len, rows), default=0))
    width = max(left + side + _RIGHT_MARGIN, WIDTH)
    canvas = Canvas(width, _TOP + side + _BOTTOM)
    axes = canvas.axes(left, _TOP, side, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(_colours(np.sqrt(shares)), interpolation="nearest" if cell >= 2 else "antialiased")
    total = counts.sum()
    title = f"{np.trace(counts):,.0f} of {total:,.0f} right" if total else "no examples"
    axes.set_title(title, fontsize=points(12), color=TEXT, loc="left", pad=4)
    axes.set_xlabel("predicted class", fontsize=points(11), color=TEXT, labelpad=2)
    axes.set_ylabel("true class", fontsize=points(11), color=TEXT, labelpad=2)
    axes.tick_params(labelsize=points(size), colors=TEXT, length=2, pad=2)
    if rows:
        is_tight = 0.62 * size * max(map(len, columns)) + 2 > cell
        axes.set_xticks(range(classes), columns, rotation=90 if is_tight else 0)
        axes.set_yticks(range(classes), rows)
    if cell >= _NUMBERED:
        for (row, column), count in np.ndenumerate(np.rint(counts).astype(int)):
            if count:
                # Orange and light blue are too light for white.
                is_dark = row == column and shares[row, column] > 0.6
                text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
                # A digit is about two thirds as wide as it is high.
                fitting = min(max(10.0, cell / 3), 14.0, 1.5 * cell / len(text))
                axes.text(
                    *(column, row, text),
                    ha="center",
                    va="center",
                    color="white" if is_dark else "black",
                    fontsize=points(fitting),
                )
    return canvas.pixels()


def _labels(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the labels of rows and columns: names, or indices of the classes if long."""
    shown = [plain(shorten(name, _MOST_NAME)) for name in names]
    if max(map(len, shown)) <= _LONG:
        return shown, shown
    return [f"{name} {i}" for i, name in enumerate(shown)], [str(i) for i in range(len(names))]


def _colours(strength: np.ndarray) -> np.ndarray:
    right, wrong = (
        np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for name in (RIGHT, WRONG)
    )
    full = np.where(np.eye(len(strength), dtype=bool)[:, :, np.newaxis], right, wrong)
    return np.asarray(1.0 + strength[:, :, np.newaxis] * (full - 1.0))


# Two rows are as high as a card.
_COLUMNS = 6
# The side of an image, the space between two, and the height of a line, in pixels.
_IMAGE, _GAP, _LINE = 50, 7, 13
_GRID_TOP = 23
_LONGEST_LABEL = 9


class LabelledImage(NamedTuple):
    """`pixels` are uint8 [rows, cols, channels], 1 or 3 channels; `probability` is of `label`."""

    pixels: np.ndarray
    true_label: str
    label: str
    probability: float


def image_grid(images: Sequence[LabelledImage]) -> np.ndarray:
    """Returns a grid uint8 [height, width, 3]; wrong predictions have an orange, thicker frame."""
    rows = -(-len(images) // _COLUMNS)
    row_height = _IMAGE + 3 * _LINE + _GAP
    canvas = Canvas(WIDTH, _GRID_TOP + rows * row_height)
    right = sum(image.label == image.true_label for image in images)
    title = f"{right} of {len(images)} right; below: predicted, probability, true"
    canvas.text(_GAP, 15, title, 11)
    for i, image in enumerate(images):
        x = _GAP + i % _COLUMNS * (_IMAGE + _GAP)
        y = _GRID_TOP + i // _COLUMNS * row_height
        is_right = image.label == image.true_label
        colour = RIGHT if is_right else WRONG
        axes = canvas.axes(x, y, _IMAGE, _IMAGE)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=1.5 if is_right else 3.0)
        shown = np.repeat(image.pixels, 3, axis=2) if image.pixels.shape[2] == 1 else image.pixels
        axes.imshow(shown, interpolation="nearest" if max(shown.shape) < _IMAGE else "antialiased")
        label, true = (shorten(s, _LONGEST_LABEL) for s in (image.label, image.true_label))
        lines = ((label, colour), (f"{100 * image.probability:.0f} %", colour), (true, TEXT))
        for line, (text, text_colour) in enumerate(lines, 1):
            place = (x + _IMAGE / 2, y + _IMAGE + line * _LINE - 1)
            canvas.text(*place, text, 10, centred=True, colour=text_colour)
    return canvas.pixels()


# Bounds of the pixels of a row of the map.
_LEAST_ROW, _MOST_ROW = 14, 28
# Pixels of the text above and below the map, and of the legend at the right.
_MAP_TOP, _MAP_BOTTOM, _LEGEND = 24, 36, 48
# Least width of a cell with a number, and of one with its expert's number below it.
_NUMBERED_LOAD, _LABELLED_LOAD = 24, 16
_MOST_HEIGHT = 1200
# Loads from here on have one colour.
_BUSY = 2.0


def expert_loads(loads: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3] of loads [layers, experts]; 1 is a fair share."""
    rows, experts = loads.shape
    names = [plain(shorten(name, 20)) for name in layers]
    left = 14 + round(6.4 * max(map(len, names)))
    row_height = min(max((HEIGHT - _MAP_TOP - _MAP_BOTTOM) // rows, _LEAST_ROW), _MOST_ROW)
    height = min(row_height * rows, _MOST_HEIGHT)
    canvas = Canvas(WIDTH, _MAP_TOP + height + _MAP_BOTTOM)
    axes = canvas.axes(left, _MAP_TOP, WIDTH - left - _LEGEND, height)
    image = axes.imshow(
        loads, cmap=SEQUENTIAL, vmin=0.0, vmax=_BUSY, aspect="auto", interpolation="nearest"
    )
    small, normal = points(10.5), points(12)
    axes.set_title("load of experts (1: an equal share)", fontsize=normal, color=TEXT)
    axes.set_xlabel("expert", fontsize=normal, color=TEXT)
    cell = (WIDTH - left - _LEGEND) / experts
    every = max(1, int(np.ceil(_LABELLED_LOAD / cell)))
    axes.set_xticks(range(0, experts, every))
    axes.set_yticks(range(rows), names)
    axes.tick_params(labelsize=small, colors=TEXT, length=2)
    if cell >= _NUMBERED_LOAD and height / rows >= _LEAST_ROW:
        for (row, column), load in np.ndenumerate(loads):
            colour = "white" if load < 0.9 else "black"
            axes.text(
                column, row, f"{load:.2f}", ha="center", va="center", color=colour, fontsize=small
            )
    legend = canvas.axes(WIDTH - _LEGEND + 10, _MAP_TOP, 12, height)
    bar = canvas.figure.colorbar(image, cax=legend, extend="max", ticks=[0.0, 1.0, 2.0])
    bar.ax.tick_params(labelsize=small, colors=TEXT, length=2)
    return canvas.pixels()
