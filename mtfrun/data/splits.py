"""Splits: train, validation and test by a hash, and the check that a split exists."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence

from mtfrun.data.errors import DataError, lacks

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""The part of all documents that falls into each split."""
# The part of a hash's range, [first, end), of each split.
_RANGES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
# Bytes of a record that decide its split. A text that is read in parts is longer than that.
_HASHED = 1 << 16
# The odd number nearest to 2**32 divided by the golden ratio: D. Knuth, The Art of Computer
# Programming, volume 3, section 6.4, multiplicative hashing.
_GOLDEN = 2_654_435_769


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


def check_split(source_name: str, split: str, splits: Sequence[str]) -> None:
    if split not in splits:
        raise DataError(lacks(source_name, "split", split, splits))
