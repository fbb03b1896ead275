"""Splits one file of text by ranges of its bytes."""

from __future__ import annotations

import os
from typing import BinaryIO, NamedTuple

from mtfrun.data.hash_split import SPLITS

# How far from its place a cut may be for the sake of a line, of the file's size and in bytes.
_REACH_SHARE, _REACH = 20, 1 << 20
# A character of UTF-8 is at most so long.
_CHARACTER = 4


class FileRange(NamedTuple):
    """Bytes `start` to `start + size` of a file."""

    start: int
    size: int


def range_of_split(path: str, split: str) -> FileRange:
    """Returns the part of a file that is a split: of ten parts eight train, then validation, test.

    The three are disjoint and cover the file. Cuts are where lines begin, and where none does
    nearby, where a character of UTF-8 begins. Of a file of a few bytes a split may be empty.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        first = _cut(file, size, size * 8 // 10)
        second = max(first, _cut(file, size, size * 9 // 10))
    cuts = [0, first, second, size]
    number = SPLITS.index(split)
    return FileRange(cuts[number], cuts[number + 1] - cuts[number])


def _cut(file: BinaryIO, size: int, wanted: int) -> int:
    """Returns the beginning of a line or character near the byte `wanted`."""
    reach = min(size // _REACH_SHARE, _REACH)
    file.seek(wanted - reach)
    around = file.read(2 * reach)
    ends = [around.rfind(b"\n", 0, reach), around.find(b"\n", reach)]
    beginnings = [wanted - reach + end + 1 for end in ends if end >= 0]
    if beginnings:
        return min(beginnings, key=lambda beginning: abs(beginning - wanted))
    for begins in range(wanted, max(wanted - _CHARACTER, 0), -1):
        file.seek(begins)
        # The bytes of a character after its first are 10xxxxxx.
        if (file.read(1) or b"\x00")[0] >> 6 != 0b10:
            return begins
    return wanted  # no UTF-8
