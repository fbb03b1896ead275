"""Splits of one text file, as ranges of its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

from mtfrun.data.hash_split import SPLITS

# Greatest distance of a cut from its nominal place, for a cut between lines: the size of the file
# divided by the first, at most the second, in bytes.
_REACH_DIVISOR, _MAX_REACH = 20, 1 << 20
# Greatest length of a character of UTF-8, in bytes.
_MAX_CHARACTER = 4


class FileRange(NamedTuple):
    """Bytes `start` to `start + size` of a file.

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
    """
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        first = _cut(file, size, size * 8 // 10)
        second = max(first, _cut(file, size, size * 9 // 10))
    cuts = [0, first, second, size]
    index = SPLITS.index(split)
    return FileRange(cuts[index], cuts[index + 1] - cuts[index])


def _cut(file: BinaryIO, size: int, nominal: int) -> int:
    """Returns the beginning of a line or character near the byte `nominal`."""
    reach = min(size // _REACH_DIVISOR, _MAX_REACH)
    file.seek(nominal - reach)
    window = file.read(2 * reach)
    line_ends = [window.rfind(b"\n", 0, reach), window.find(b"\n", reach)]
    line_starts = [nominal - reach + end + 1 for end in line_ends if end >= 0]
    if line_starts:
        return min(line_starts, key=lambda start: abs(start - nominal))
    for start in range(nominal, max(nominal - _MAX_CHARACTER, 0), -1):
        file.seek(start)
        # The bytes of a character after its first are 10xxxxxx.
        if (file.read(1) or b"\x00")[0] >> 6 != 0b10:
            return start
    return nominal  # not UTF-8
