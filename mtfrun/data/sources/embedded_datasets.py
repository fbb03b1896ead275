"""TFDS datasets that are available without a download: digits, number words, Python's texts."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib
import os
import platform
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from mtfrun.data.errors import DataError
from mtfrun.data.splits import SPLITS, split_of
from mtfrun.errors import InputError

# One line per image: 64 pixels from 0 to 16 in row order, and the digit.
_DIGITS = Path(__file__).with_name("digits.csv.gz")
_DIGITS_SIZE = 8
_DIGITS_LARGEST = 16
_DIGITS_TEST_SHARE = 0.2

LARGEST_NUMBER = 999_999
_HELD_OUT_PERCENT = 5
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

# Third-party code, tests, and data rather than code; `lib2to3` has copies of other modules.
_EXCLUDED_DIRECTORIES = (
    *("site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data"),
    *("encodings", "lib2to3", "__pycache__"),
)
# Generated when Python is built or installed, so they differ between machines.
_MACHINE_PREFIXES = (
    *("_sysconfigdata", "_sysconfig_vars", "config-", "sitecustomize", "usercustomize"),
)


_VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True)
class EmbeddedDataset:
    """A TFDS dataset that is generated on this machine.

    Attributes:
      examples: the keys and examples of a split.
      is_shuffled: whether TFDS puts the examples in the order of hashes of their keys, for which it
        reads them a second time.
    """

    name: str
    features: Mapping[str, tfds.features.FeatureConnector]
    examples: Callable[[str], Iterator[tuple[int | str, Mapping[str, object]]]]
    splits: Sequence[str] = SPLITS
    config: tfds.core.BuilderConfig | None = None
    is_shuffled: bool = True

    def directory(self, data_dir: Path) -> Path:
        names = [self.name] if self.config is None else [self.name, self.config.name]
        return data_dir.joinpath(*names, _VERSION)

    def builder(self, data_dir: Path) -> tfds.core.DatasetBuilder:
        return tfds.dataset_builders.AdhocBuilder(
            name=self.name,
            version=_VERSION,
            features=tfds.features.FeaturesDict(self.features),
            split_datasets={split: self.examples(split) for split in self.splits},
            config=self.config,
            data_dir=data_dir,
            description=self.examples.__doc__,
            disable_shuffling=not self.is_shuffled,
        )


def _digits(split: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """1,797 handwritten digits of 8x8 pixels by 13 writers; 1,420 to train on, 377 to test.

    The test part of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998),
    UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, as scikit-learn ships it;
    digits_notice.txt has its licence. A hash of an image's number decides its split.
    """
    for number, line in enumerate(read_digits()):
        in_test = _hash(number) / 2**64 < _DIGITS_TEST_SHARE
        if in_test == (split == "test"):
            pixels = line[:-1].reshape(_DIGITS_SIZE, _DIGITS_SIZE, 1) * 255 // _DIGITS_LARGEST
            yield number, {"image": pixels.astype(np.uint8), "label": int(line[-1])}


def _number_words(split: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """The numbers 0 to 999,999 in digits and in words, a task with exact answers both ways.

    `number` is "4096", `words` is "four thousand ninety-six". A hash of the number decides the
    split: 5 % are in validation, 95 % in train.
    """
    for key, number in enumerate(shuffled_numbers()):
        if is_held_out(number) == (split == "validation"):
            yield key, {"number": str(number), "words": spell(number)}


def _python_docs(split: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """English prose without a download: the topics of `pydoc_data`, one document per topic.

    Topics that repeat longer ones are left out (`distinct_topics`); about 0.4 MB remain. A hash of
    the topic decides the split.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        remedy = "install the full standard library or use python_source"
        raise DataError(f"python_docs: this Python has no pydoc_data.topics; {remedy}") from error
    for name, text in sorted(distinct_topics(topics).items()):
        if split_of(name) == split:
            yield name, {"name": name, "text": text}


def _python_source(split: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Code without a download: the standard library's `.py` files, about 10 MB.

    One document per file, named by its path below the library, without tests and generated tables.
    A hash of the name decides the split.
    """
    library = Path(sysconfig.get_path("stdlib"))
    names = source_files(library)
    if not names:
        remedy = "install the full standard library or use python_docs"
        raise DataError(f"python_source: no .py file under {library}; {remedy}")
    for name in names:  # files that are empty or not UTF-8 are left out
        text = (library / name).read_bytes()
        if split_of(name) == split and text and text.decode("utf-8", "ignore").encode() == text:
            yield name, {"name": name, "text": text}


def running_python() -> tfds.core.BuilderConfig:
    version = platform.python_version()
    return tfds.core.BuilderConfig(
        name=f"{sys.implementation.name}_{version.replace('.', '_').replace('+', '')}",
        description=f"{sys.implementation.name} {version}",
    )


def _texts(*names: str) -> Mapping[str, tfds.features.FeatureConnector]:
    return dict.fromkeys(names, tfds.features.Text())


DIGITS = EmbeddedDataset(
    "digits",
    {
        "image": tfds.features.Image(shape=(_DIGITS_SIZE, _DIGITS_SIZE, 1)),
        "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
    },
    _digits,
    splits=("train", "test"),
)
NUMBER_WORDS = EmbeddedDataset(
    "number_words",
    _texts("number", "words"),
    _number_words,
    splits=("train", "validation"),
    is_shuffled=False,  # `shuffled_numbers` shuffles already
)
PYTHON_DOCS, PYTHON_SOURCE = (
    EmbeddedDataset(name, _texts("name", "text"), examples, config=running_python())
    for name, examples in (("python_docs", _python_docs), ("python_source", _python_source))
)


def read_digits() -> np.ndarray:
    """Returns int64 [1797, 65]: 64 pixels from 0 to 16, and the digit."""
    with gzip.open(_DIGITS, "rt", encoding="ascii") as lines:
        return np.loadtxt(lines, delimiter=",").astype(np.int64)


def shuffled_numbers() -> Iterator[int]:
    """Yields 0 to 999,999, each once, in a fixed pseudorandom order."""
    # A step that is coprime to the count reaches every number; one near the count divided by the
    # golden ratio keeps consecutive numbers far apart.
    step = 618_033
    for i in range(LARGEST_NUMBER + 1):
        yield i * step % (LARGEST_NUMBER + 1)


def is_held_out(number: int) -> bool:
    return _hash(number) % 100 < _HELD_OUT_PERCENT


def _hash(number: int) -> int:
    return int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8])


def spell(number: int) -> str:
    """Returns an integer from 0 to 999,999 in English words: "forty thousand thirteen"."""
    if not 0 <= number <= LARGEST_NUMBER:
        raise InputError(f"number={number} must be between 0 and {LARGEST_NUMBER}")
    for unit, name in ((1000, "thousand"), (100, "hundred")):
        if number >= unit:
            remainder = f" {spell(number % unit)}" if number % unit else ""
            return f"{spell(number // unit)} {name}{remainder}"
    if number >= 20:
        remainder = f"-{_SMALL[number % 10]}" if number % 10 else ""
        return f"{_TENS[number // 10 - 2]}{remainder}"
    return _SMALL[number]


def distinct_topics(topics: Mapping[str, str]) -> dict[str, str]:
    r"""Returns the topics of which less than half is repeated verbatim in a longer topic.

    Many topics are sections of another one ("while" of "compound"). If one were held out and the
    larger one trained on, the held-out loss would measure memorisation. The first paragraph, a
    heading, is not compared.

    Examples:
      >>> list(distinct_topics({"a": "A\n\none two", "b": "B\n\none two\n\nthree"}))
      ['b']
    """
    longest_first = sorted(topics, key=lambda name: (-len(topics[name]), name))
    seen: set[str] = set()
    distinct = {}
    for name in longest_first:
        paragraphs = [paragraph.strip() for paragraph in topics[name].split("\n\n")]
        body = paragraphs[1:]
        repeated = sum(len(paragraph) for paragraph in body if paragraph in seen)
        if not body or 2 * repeated < sum(map(len, body)):
            distinct[name] = topics[name]
        seen.update(paragraphs)
    return distinct


def source_files(library: Path) -> list[str]:
    """Returns the sorted paths, relative to `library` and with `/`, of its `.py` files."""
    names: list[str] = []
    for directory, subdirectories, files in os.walk(library):
        subdirectories[:] = [
            name
            for name in subdirectories
            if name not in _EXCLUDED_DIRECTORIES and not name.startswith(_MACHINE_PREFIXES)
        ]
        names += [
            (Path(directory) / name).relative_to(library).as_posix()
            for name in files
            if name.endswith(".py") and not name.startswith(_MACHINE_PREFIXES)
        ]
    return sorted(names)
