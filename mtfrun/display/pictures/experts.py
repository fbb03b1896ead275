from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtfrun.display.pictures.canvas import (
    HEIGHT,
    MONO,
    PALETTE,
    SEQUENTIAL,
    TEXT,
    WIDTH,
    Canvas,
    plain,
    points,
    shorten,
)

_MARGIN, _LEGEND_TOP = 10, 4
# Pixels of a character, the least width of a box, its height, and the height of a number below it.
_CHARACTER, _LEAST_BOX, _BOX, _NUMBER = 7.2, 17, 17, 12
_SPACE, _TITLE = 2, 18
# Experts in a line of the legend, and where it begins.
_LEGEND_COLUMNS, _LEGEND_LEFT, _LEGEND_LINE = 8, 78, 18


def token_experts(
    tokens: Sequence[str], experts: Mapping[str, np.ndarray], num_experts: int
) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3]: for each layer, tokens in their experts' colours.

    `experts` has, by layer, the index [tokens] of each token's first expert; -1 is white.
    """
    boxes = list(_boxes(tokens))
    lines = boxes[-1][1] + 1 if boxes else 0
    has_numbers = num_experts > len(PALETTE)
    line_height = _BOX + _SPACE + _NUMBER * has_numbers
    layer_height = _TITLE + lines * line_height
    legend_rows = -(-num_experts // _LEGEND_COLUMNS)
    colours = _colours(num_experts)
    height = _LEGEND_TOP + legend_rows * _LEGEND_LINE + len(experts) * layer_height + _SPACE
    canvas = Canvas(WIDTH, height)
    canvas.text(_MARGIN, _LEGEND_TOP + 11, "first expert", 11)
    step = (WIDTH - _LEGEND_LEFT - _MARGIN) / _LEGEND_COLUMNS
    for expert in range(num_experts):
        x = _LEGEND_LEFT + expert % _LEGEND_COLUMNS * step
        y = _LEGEND_TOP + expert // _LEGEND_COLUMNS * _LEGEND_LINE
        canvas.box(x, y, 14, 14, colours[expert])
        canvas.text(x + 18, y + 11, str(expert), 11)
    top = _LEGEND_TOP + legend_rows * _LEGEND_LINE
    for layer, of_tokens in experts.items():
        canvas.text(_MARGIN, top + 13, layer, bold=True)
        top += _TITLE
        for (x, line, width), token, expert in zip(boxes, tokens, of_tokens.tolist(), strict=True):
            y = top + line * line_height
            canvas.box(x, y, width, _BOX, colours[expert] if expert >= 0 else "white")
            middle = x + width / 2
            colour = "black" if _is_light(colours[expert]) or expert < 0 else "white"
            canvas.text(middle, y + 13, token, centred=True, colour=colour, family=MONO)
            if has_numbers:
                number = str(expert) if expert >= 0 else "-"
                canvas.text(middle, y + _BOX + 10, number, 9, centred=True)
        top += lines * line_height
    return canvas.pixels()


def _boxes(tokens: Sequence[str]) -> Iterator[tuple[float, int, float]]:
    x, line = float(_MARGIN), 0
    for token in tokens:
        width = min(max(_LEAST_BOX, _CHARACTER * len(token) + 4), WIDTH - 2 * _MARGIN)
        if x + width > WIDTH - _MARGIN:
            x, line = float(_MARGIN), line + 1
        yield x, line, width
        x += width + _SPACE


def _colours(number: int) -> Sequence[str]:
    """Many colours are hard to tell apart."""
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.colors import to_hex  # noqa: PLC0415

    if number <= len(PALETTE):
        return PALETTE
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0.0, 1.0, number))]


def _is_light(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 130


# Bounds of the pixels of a row of the map.
_LEAST_ROW, _MOST_ROW = 14, 28
# Pixels of the text above and below the map, and of the legend at the right.
_TOP, _BOTTOM, _RIGHT = 24, 36, 48
# Least width of a cell with a number, and of one with its expert's number below it.
_NUMBERED, _LABELLED = 24, 16
_MOST_HEIGHT = 1200
# Loads from here on have one colour.
_BUSY = 2.0


def expert_loads(loads: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3] of loads [layers, experts]; 1 is a fair share."""
    rows, experts = loads.shape
    names = [plain(shorten(name, 20)) for name in layers]
    left = 14 + round(6.4 * max(map(len, names)))
    row_height = min(max((HEIGHT - _TOP - _BOTTOM) // rows, _LEAST_ROW), _MOST_ROW)
    height = min(row_height * rows, _MOST_HEIGHT)
    canvas = Canvas(WIDTH, _TOP + height + _BOTTOM)
    axes = canvas.axes(left, _TOP, WIDTH - left - _RIGHT, height)
    image = axes.imshow(
        loads, cmap=SEQUENTIAL, vmin=0.0, vmax=_BUSY, aspect="auto", interpolation="nearest"
    )
    small, normal = points(10.5), points(12)
    axes.set_title("load of experts (1: an equal share)", fontsize=normal, color=TEXT)
    axes.set_xlabel("expert", fontsize=normal, color=TEXT)
    cell = (WIDTH - left - _RIGHT) / experts
    every = max(1, int(np.ceil(_LABELLED / cell)))
    axes.set_xticks(range(0, experts, every))
    axes.set_yticks(range(rows), names)
    axes.tick_params(labelsize=small, colors=TEXT, length=2)
    if cell >= _NUMBERED and height / rows >= _LEAST_ROW:
        for (row, column), load in np.ndenumerate(loads):
            colour = "white" if load < 0.9 else "black"
            axes.text(
                column, row, f"{load:.2f}", ha="center", va="center", color=colour, fontsize=small
            )
    legend = canvas.axes(WIDTH - _RIGHT + 10, _TOP, 12, height)
    bar = canvas.figure.colorbar(image, cax=legend, extend="max", ticks=[0.0, 1.0, 2.0])
    bar.ax.tick_params(labelsize=small, colors=TEXT, length=2)
    return canvas.pixels()
