from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtfrun.display.pictures.canvas import MONO, PALETTE, WIDTH, Canvas

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
    for layer, indices in experts.items():
        canvas.text(_MARGIN, top + 13, layer, bold=True)
        top += _TITLE
        for (x, line, width), token, expert in zip(boxes, tokens, indices.tolist(), strict=True):
            y = top + line * line_height
            canvas.box(x, y, width, _BOX, colours[expert] if expert >= 0 else "white")
            middle = x + width / 2
            red, green, blue = (int(colours[expert][i : i + 2], 16) for i in (1, 3, 5))
            is_light = expert < 0 or 0.299 * red + 0.587 * green + 0.114 * blue > 130
            colour = "black" if is_light else "white"
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
