"""Deterministic train, validation and test splits by a hash of a name."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "validation", "test")


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
