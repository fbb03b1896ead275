"""What decoding does with a prompt, by the number of its ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.experiment import Decoding, DecodingShape


class RowTable(NamedTuple):
    """Rows by the number of ids of their prompt that are kept, 0 to the largest number.

    Attributes:
      shapes: of the programs, in the order in which they run.
      program: int32 [numbers], the index in `shapes` of the program that decodes a row.
      prefix: int32 [numbers], the ids at the beginning of an output that are the prompt's.
      limit: int32 [numbers], the largest number of ids of an output, the prefix included.
    """

    shapes: Sequence[DecodingShape]
    program: np.ndarray
    prefix: np.ndarray
    limit: np.ndarray

    @property
    def longest(self) -> int:
        """The largest number of ids that a program returns, prefix included."""
        return max(dict(shape.lengths)["targets"] for shape in self.shapes)

    @property
    def longest_output(self) -> int:
        """The largest number of ids of an output, behind the prefix."""
        return int((self.limit - self.prefix).max())


def row_table(decoding: Decoding) -> RowTable:
    """Returns the table of a decoding; nothing of a row depends on more than its number of ids."""
    prompt_format = decoding.prompt_format
    numbers = range(prompt_format.longest + 1)
    rows = [prompt_format.row_of(np.zeros([number], np.int32)) for number in numbers]
    shape_of_row = [decoding.shape_of(row) for row in rows]
    shapes = sorted(set(shape_of_row))
    return RowTable(
        shapes,
        np.array([shapes.index(shape) for shape in shape_of_row], np.int32),
        np.array([row.prefix for row in rows], np.int32),
        np.array([row.limit for row in rows], np.int32),
    )
