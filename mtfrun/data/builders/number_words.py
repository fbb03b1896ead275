"""TFDS dataset of numbers and their spelling in English."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from mtfrun.errors import InputError

LARGEST = 999_999
# Percentage of the numbers that are held out for validation.
HELD_OUT_PERCENT = 5

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class NumberWords(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """The numbers 0 to 999,999 in digits and in words, a task with exact answers both ways.

    `number` is "4096", `words` is "four thousand ninety-six". A hash of the number decides the
    split: 5 % are in validation, 95 % in train.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {"number": tfds.features.Text(), "words": tfds.features.Text()}
            ),
            # `shuffled_numbers` shuffles already; TFDS would need a second pass.
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        return {split: self._generate_examples(split) for split in ("train", "validation")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        in_validation = split == "validation"
        for key, number in enumerate(shuffled_numbers()):
            if is_held_out(number) == in_validation:
                yield key, {"number": str(number), "words": spell(number)}


def shuffled_numbers() -> Iterator[int]:
    """Yields 0 to 999,999, each once, in a fixed pseudorandom order."""
    # A step that is coprime to the count visits every number; one near the count divided by the
    # golden ratio keeps consecutive numbers far apart.
    step = 618_033
    for i in range(LARGEST + 1):
        yield i * step % (LARGEST + 1)


def is_held_out(number: int) -> bool:
    """Returns whether a number is in the validation split, by SHA-256 of its digits."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def spell(number: int) -> str:
    """Returns an integer from 0 to 999,999 in English words.

    Examples:
      >>> spell(999_999)
      'nine hundred ninety-nine thousand nine hundred ninety-nine'
      >>> spell(40_013), spell(0)
      ('forty thousand thirteen', 'zero')
    """
    if not 0 <= number <= LARGEST:
        raise InputError(f"number={number} must be between 0 and {LARGEST}")
    if number >= 1000:
        remainder = f" {spell(number % 1000)}" if number % 1000 else ""
        return f"{spell(number // 1000)} thousand{remainder}"
    if number >= 100:
        remainder = f" {spell(number % 100)}" if number % 100 else ""
        return f"{_SMALL[number // 100]} hundred{remainder}"
    if number >= 20:
        remainder = f"-{_SMALL[number % 10]}" if number % 10 else ""
        return f"{_TENS[number // 10 - 2]}{remainder}"
    return _SMALL[number]
