"""Slow tests are divided into portions, and none is left out."""

from __future__ import annotations

from tests.portions import divide


def test_small_files_share_a_portion_and_large_ones_have_several() -> None:
    sizes = {"a": 2, "b": 1, "c": 7, "d": 2}
    names = [f"tests/{file}.py::test_{i}" for file, size in sizes.items() for i in range(size)]
    portions = list(divide(names, 3))
    assert [len(portion) for portion in portions] == [3, 3, 1, 3, 2]
    assert [len(portion) for portion in divide(names, 100)] == [12]
    assert sorted(name for portion in portions for name in portion) == sorted(names)
