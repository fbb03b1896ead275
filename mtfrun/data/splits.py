"""Splits: train, validation and test by a hash, and the check that a split exists."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

from mtfrun.data.errors import DataError
from mtfrun.errors import did_you_mean

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""The part of all documents that falls into each split."""

# Bytes of a record that decide its split. A text that is read in parts is longer than that.
_HASHED = 1 << 16
# The odd number nearest to 2**32 divided by the golden ratio: D. Knuth, The Art of Computer
# Programming, volume 3, section 6.4, multiplicative hashing.
_GOLDEN = 2_654_435_769


def split_of(name: str) -> str:
    """Returns the split of the document `name`: 80 % train, 10 % validation, 10 % test.

    The name alone decides (SHA-256): adding or removing documents moves no other document.

    >>> [split_of(name) for name in ("types", "import", "strings")]
    ['train', 'validation', 'test']
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return split_of_fraction(int.from_bytes(digest[:8], "big") / 2**64)


def split_of_fraction(fraction: float) -> str:
    """Returns the split of a document whose hash is `fraction` of the hash's range, in [0, 1)."""
    if fraction < 0.8:
        return "train"
    return "validation" if fraction < 0.9 else "test"


def split_of_record(record: bytes) -> str:
    """Returns the split of a record whose bytes alone decide; quicker than `split_of`.

    CRC-32 of the record's first 64 KiB, spread by a multiplication: records that differ in a few
    bits only have checksums that do as well.

    >>> [split_of_record(line) for line in (b"red", b"blue", b"tea")]
    ['train', 'validation', 'test']
    """
    return split_of_fraction((zlib.crc32(record[:_HASHED]) * _GOLDEN % 2**32) / 2**32)


def check_split(source_name: str, split: str, splits: Sequence[str]) -> None:
    """Raises DataError unless `split` is one of `splits`."""
    if split not in splits:
        raise DataError(
            f'{source_name} has no split "{split}"; it has {", ".join(splits)}'
            f"{did_you_mean(split, splits)}"
        )
