"""Digests of arrays that do not depend on how their parts are distributed.

A digest is the sum modulo 2^64 of an array's words, each times an odd number that its name and
place select: parts add up in any order, and an array in which one word differs has another digest.
They find errors, not attacks: arrays with a wanted digest are easy to make.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

MODULUS = 1 << 64


def digest_of_rows(arrays: Mapping[str, np.ndarray], numbers: Sequence[int]) -> int:
    """Returns the digest of rows of a batch: arrays [rows, ...] by name.

    numbers: places of the rows in the whole batch, which has the sum of the digests of its parts.
    """
    total = 0
    for name, array in arrays.items():
        words = _words(array)
        places = _row_places(tuple(numbers), words.shape[1])
        total += _odd_number(name) * int((words * places).sum(dtype=np.uint64))
    return total % MODULUS


def row_digests(words: np.ndarray) -> np.ndarray:
    """Returns a digest of each row, uint64 [rows], of uint64 [rows, words]."""
    digests: np.ndarray = (words * _row_places((0,), words.shape[1])).sum(axis=1)
    return digests


def digest_of_part(name: str, part: np.ndarray, begin: Sequence[int], shape: Sequence[int]) -> int:
    """Returns the digest of a part, which begins at an index, of an array of this shape.

    The words have 8 bytes, several entries of a row. A word's factor is the row's factor times that
    of its column, so that few factors are computed: an entry of float32 takes 0.4 ns.
    """
    if not part.ndim:
        part, begin, shape = part.reshape([1]), [0], [1]
    per_word = 8 // part.dtype.itemsize
    before = begin[-1] % per_word
    behind = -(before + part.shape[-1]) % per_word
    if before or behind:  # entries of words that the part does not have whole
        part = np.pad(part, [*[(0, 0)] * (part.ndim - 1), (before, behind)])
    words = np.ascontiguousarray(part).view("<u8").reshape(-1, part.shape[-1] // per_word)
    rows = np.zeros(part.shape[:-1], np.uint64)
    for axis, (first, size) in enumerate(zip(begin[:-1], part.shape[:-1], strict=True)):
        stride = math.prod(shape[axis + 1 : -1])
        index = np.arange(first, first + size, dtype=np.uint64) * np.uint64(stride)
        rows += index.reshape([-1 if i == axis else 1 for i in range(rows.ndim)])
    columns = np.arange(words.shape[1], dtype=np.uint64) + np.uint64(begin[-1] // per_word)
    row_sums = np.einsum("ij,j->i", words, _multipliers(columns))
    total = int((row_sums * _multipliers(rows.reshape(-1))).sum(dtype=np.uint64))
    return _odd_number(name) * total % MODULUS


def _words(rows: np.ndarray) -> np.ndarray:
    """Returns the bytes of rows as uint64 [rows, words], filled up with zeros."""
    octets = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    missing = -octets.shape[1] % 8
    if missing:
        octets = np.pad(octets, [(0, 0), (0, missing)])
    return octets.view("<u8")


@functools.lru_cache(16)
def _row_places(numbers: tuple[int, ...], words: int) -> np.ndarray:
    rows = np.array(numbers, np.uint64)[:, np.newaxis] * np.uint64(words)
    return _multipliers(rows + np.arange(words, dtype=np.uint64))


@functools.lru_cache(1 << 16)
def _odd_number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") | 1


def _multipliers(places: np.ndarray) -> np.ndarray:
    """Returns an odd uint64 for each place, by splitmix64.

    Steele et al. 2014, https://doi.org/10.1145/2714064.2660195, figure 17.
    """
    z = (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)
