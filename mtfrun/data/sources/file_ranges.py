"""Splits of one text file, as ranges of its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mtfrun.data.sources.streams import blocks, character_start, is_compressed
from mtfrun.data.splits import SPLITS

# Greatest distance of a cut from its nominal place, for a cut between lines: the size of the file
# divided by the first, at most the second, in bytes.
_REACH_DIVISOR, _MAX_REACH = 20, 1 << 20
# Greatest length of a character of UTF-8, in bytes.
_MAX_CHARACTER = 4


class FileRange(NamedTuple):
    """Bytes `start` to `start + size` of a file, after decompression.

    Attributes:
      start: first byte.
      size: number of bytes.
    """

    start: int
    size: int


def range_of_split(path: str, split: str) -> FileRange:
    """Returns the range of a split: the first 80 % train, then 10 % validation and 10 % test.

    The three are disjoint and cover the file. Cuts are at beginnings of lines, or where none is
    near, at the beginning of a character of UTF-8. A split of a file of a few bytes may be empty.
    A compressed file is read once to know its length, and once for each cut.

    Raises:
      DataError: the file cannot be read.
    """
    if is_compressed(path):
        size = sum(map(len, blocks(path, is_raw=True)))
    else:
        size = Path(path).stat().st_size
    first = _cut(path, size, size * 8 // 10)
    second = max(first, _cut(path, size, size * 9 // 10))
    cuts = [0, first, second, size]
    index = SPLITS.index(split)
    return FileRange(cuts[index], cuts[index + 1] - cuts[index])


def _cut(path: str, size: int, nominal: int) -> int:
    """Returns the beginning of a line or character near the byte `nominal`."""
    reach = min(size // _REACH_DIVISOR, _MAX_REACH)
    # The character at `nominal` may begin before the window of a short file.
    start = max(nominal - max(reach, _MAX_CHARACTER), 0)
    window = b"".join(blocks(path, start, nominal + max(reach, 1) - start, is_raw=True))
    middle = nominal - start
    line_ends = [
        window.rfind(b"\n", middle - reach if reach <= middle else 0, middle),
        window.find(b"\n", middle, middle + reach),
    ]
    line_starts = [start + end + 1 for end in line_ends if end >= 0]
    if line_starts:
        return min(line_starts, key=lambda position: abs(position - nominal))
    return start + character_start(window, middle) if middle < len(window) else nominal
