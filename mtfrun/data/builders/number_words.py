"""Numbers and how they are spelt in English, as a TFDS dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from mtfrun.errors import InputError

LARGEST = 999_999
# Of every hundred numbers, so many are held out.
HELD_OUT_PERCENT = 5

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


class NumberWords(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """The numbers 0 to 999,999 in digits and in words: a task with an exact answer, both ways.

    `number` is "4096", `words` is "four thousand ninety-six". A hash of the number decides the
    split: 5 % are in validation, the rest in train.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {"number": tfds.features.Text(), "words": tfds.features.Text()}
            ),
            # In the order of `shuffled_numbers`, which is as good and needs no second pass.
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        return {split: self._generate_examples(split) for split in ("train", "validation")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        wanted = split == "validation"
        for key, number in enumerate(shuffled_numbers()):
            if is_held_out(number) == wanted:
                yield key, {"number": str(number), "words": spell(number)}


def shuffled_numbers() -> Iterator[int]:
    """Yields 0 to 999,999, each once, in an order that looks random and is always the same."""
    # A step that shares no factor with the count visits every number; the golden ratio of the count
    # spreads neighbours far apart.
    step = 618_033
    for i in range(LARGEST + 1):
        yield i * step % (LARGEST + 1)


def is_held_out(number: int) -> bool:
    """Returns whether a number is in the validation split, by SHA-256 of its digits."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def spell(number: int) -> str:
    """Returns an integer from 0 to 999,999 in English words.

    >>> spell(999_999)
    'nine hundred ninety-nine thousand nine hundred ninety-nine'
    >>> spell(40_013), spell(0)
    ('forty thousand thirteen', 'zero')
    """
    if not 0 <= number <= LARGEST:
        raise InputError(f"number={number} must be between 0 and {LARGEST}")
    if number >= 1000:
        rest = f" {spell(number % 1000)}" if number % 1000 else ""
        return f"{spell(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" {spell(number % 100)}" if number % 100 else ""
        return f"{_SMALL[number // 100]} hundred{rest}"
    if number >= 20:
        rest = f"-{_SMALL[number % 10]}" if number % 10 else ""
        return f"{_TENS[number // 10 - 2]}{rest}"
    return _SMALL[number]
