"""Splits: train, validation and test by a hash, or by the place in a single text file."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from mtfrun.data.errors import DataError, lacks
from mtfrun.data.sources.streams import blocks, character_start, is_compressed

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""The part of all documents that falls into each split."""
ADD_MORE = "add more, or give patterns per split, e.g. {'train': 'a/*', 'validation': 'b/*'}"
# The part of a hash's range, [first, end), of each split.
_RANGES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
# Bytes of a record that decide its split. A text that is read in parts is longer than that.
_HASHED = 1 << 16
# The odd number nearest to 2**32 divided by the golden ratio: D. Knuth, The Art of Computer
# Programming, volume 3, section 6.4, multiplicative hashing.
_GOLDEN = 2_654_435_769
# Greatest distance of a cut from its nominal place, for a cut between lines: the size of the file
# divided by the first, at most the second, in bytes.
_REACH_DIVISOR, _MAX_REACH = 20, 1 << 20
# Greatest length of a character of UTF-8, in bytes.
_MAX_CHARACTER = 4


def split_of(name: str) -> str:
    """Returns the split of the document `name`: 80 % train, 10 % validation, 10 % test.

    The name alone decides (SHA-256): adding or removing documents moves no other document.

    Examples:
      >>> [split_of(name) for name in ("types", "import", "strings")]
      ['train', 'validation', 'test']
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return next((split for split, (_, end) in _RANGES.items() if fraction < end), SPLITS[-1])


def record_selector(split: str) -> Callable[[bytes], bool]:
    """Returns a function that decides whether a record is in `split`, by its bytes alone.

    Quicker than `split_of`: CRC-32 of the record's first 64 KiB, spread by a multiplication,
    because records that differ in a few bits only have checksums that do as well.

    Examples:
      >>> [list(map(record_selector(split), (b"red", b"blue", b"tea"))) for split in SPLITS]
      [[True, False, False], [False, True, False], [False, False, True]]
    """
    first, end = (int(share * 2**32) for share in _RANGES[split])
    crc32 = zlib.crc32
    return lambda record: first <= crc32(record[:_HASHED]) * _GOLDEN % 2**32 < end


def range_of_split(path: str, split: str) -> tuple[int, int]:
    """Returns first byte and size of a split: 80 % train, then 10 % validation and 10 % test.

    Cuts are at the beginning of a line or, in long lines, of a UTF-8 character. A compressed file
    is read once for its length, and once for each cut.
    """
    if is_compressed(path):
        size = sum(map(len, blocks(path, is_raw=True)))
    else:
        size = Path(path).stat().st_size
    first = _cut(path, size, size * 8 // 10)
    second = max(first, _cut(path, size, size * 9 // 10))
    cuts = [0, first, second, size]
    index = SPLITS.index(split)
    if cuts[index] == cuts[index + 1]:
        size = Path(path).stat().st_size
        raise DataError(
            f"{path} is the only file and too small to be split: none of its {size} byte(s) fall "
            f'into "{split}"; {ADD_MORE}'
        )
    return cuts[index], cuts[index + 1] - cuts[index]


def _cut(path: str, size: int, nominal: int) -> int:
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


def check_split(source_name: str, split: str, splits: Sequence[str]) -> None:
    if split not in splits:
        raise DataError(lacks(source_name, "split", split, splits))
