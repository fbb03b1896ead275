"""Numbers in words: spelling and splits."""

from __future__ import annotations

import collections

import pytest

from mtfrun.data.builders.embedded import LARGEST_NUMBER, is_held_out, shuffled_numbers, spell


@pytest.mark.parametrize(
    "number, words",
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (305, "three hundred five"),
        (1000, "one thousand"),
        (12_345, "twelve thousand three hundred forty-five"),
        (700_001, "seven hundred thousand one"),
    ],
)
def test_numbers_are_spelt_as_in_english(number: int, words: str) -> None:
    assert spell(number) == words


def test_spellings_are_distinct_and_the_longest_has_64_characters() -> None:
    spelt = [spell(number) for number in range(0, LARGEST_NUMBER + 1, 7)]
    assert len(set(spelt)) == len(spelt)
    assert max(len(spell(1000 * n + n)) for n in range(1, 1000)) == 64


def test_numbers_out_of_range_are_errors() -> None:
    for number in (-1, LARGEST_NUMBER + 1):
        with pytest.raises(ValueError, match="must be between 0 and 999999"):
            spell(number)


def test_five_percent_are_held_out_and_every_number_occurs_once() -> None:
    numbers = list(shuffled_numbers())
    assert len(set(numbers)) == len(numbers) == LARGEST_NUMBER + 1
    counts = collections.Counter(map(is_held_out, numbers))
    assert counts == {False: 950_162, True: 49_838}
