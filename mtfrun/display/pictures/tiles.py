"""Images beside each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.display.pictures.canvas import WIDTH

_COLUMNS = 8
_GAP = 4


def tile_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a grid uint8 [height, width, 3] of images [rows, cols, channels] of one size.

    Small ones are enlarged by a whole number.
    """
    rows, cols, _ = images[0].shape
    columns = min(_COLUMNS, len(images))
    factor = max(1, (WIDTH // columns - _GAP) // cols)
    height, width = rows * factor + _GAP, cols * factor + _GAP
    lines = -(-len(images) // columns)
    grid = np.full([lines * height - _GAP, columns * width - _GAP, 3], 255, np.uint8)
    for number, image in enumerate(images):
        line, column = divmod(number, columns)
        large = image.repeat(factor, 0).repeat(factor, 1)
        place = grid[line * height :, column * width :]
        place[: rows * factor, : cols * factor] = large
    return grid
