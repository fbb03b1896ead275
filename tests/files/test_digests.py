"""Digests of arrays: equal for parts of any form, and different for any other array."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.files.digests import MODULUS, digest_of_part, digest_of_rows

RNG = np.random.default_rng(0)
ROWS = {
    "ids": RNG.integers(0, 9, [6, 5], np.int32),
    "pixels": RNG.integers(0, 256, [6, 3, 3, 1], np.uint8),
}


def _of(numbers: list[int]) -> int:
    return digest_of_rows({name: array[numbers] for name, array in ROWS.items()}, numbers)


def test_the_digests_of_a_batch_s_parts_add_up() -> None:
    assert (_of([0, 1, 4]) + _of([2, 3, 5])) % MODULUS == _of(list(range(6)))


def test_a_bit_or_the_order_of_rows_changes_a_batch_s_digest() -> None:
    whole = _of(list(range(6)))
    for name, array in ROWS.items():
        for index in np.ndindex(array.shape):
            changed = array.copy()
            changed[index] ^= 1
            assert digest_of_rows({**ROWS, name: changed}, range(6)) != whole
    assert digest_of_rows({name: array[::-1] for name, array in ROWS.items()}, range(6)) != whole
    assert digest_of_rows({"ids": ROWS["pixels"], "pixels": ROWS["ids"]}, range(6)) != whole


@pytest.mark.parametrize("dtype", ["bool", "float32", "float16", "int64"])
def test_the_digests_of_an_array_s_parts_add_up(dtype: str) -> None:
    array: np.ndarray = RNG.normal(size=[2, 4, 6]).astype(dtype)
    zero, one = slice(0, 1), slice(1, 2)
    whole = digest_of_part("a", array, [0, 0, 0], array.shape)
    parts = [
        (zero, slice(0, 3), slice(0, 2)),
        (zero, slice(3, 4), slice(0, 2)),
        (zero, slice(0, 4), slice(2, 5)),
        (zero, slice(0, 4), slice(5, 6)),
        (one, slice(0, 4), slice(0, 6)),
    ]
    total = sum(
        digest_of_part("a", array[part], [axis.start for axis in part], array.shape)
        for part in parts
    )
    assert total % MODULUS == whole
    assert digest_of_part("b", array, [0, 0, 0], array.shape) != whole


def test_a_bit_or_the_order_of_rows_changes_an_array_s_digest() -> None:
    array = RNG.normal(size=[3, 5]).astype(np.float32)
    whole = digest_of_part("a", array, [0, 0], array.shape)
    for index in np.ndindex(array.shape):
        for bit in range(32):
            changed = array.copy()
            changed.view(np.uint32)[index] ^= np.uint32(1 << bit)
            assert digest_of_part("a", changed, [0, 0], array.shape) != whole
    for changed in (array[::-1], array[:, ::-1]):
        assert digest_of_part("a", changed, [0, 0], array.shape) != whole


def test_a_scalar_has_a_digest() -> None:
    assert digest_of_part("step", np.asarray(np.int64(7)), [], []) > 0
