"""Pairs of an input text and a target text."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import tensorflow as tf

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.prepared_files import PreparedFiles
from mtfrun.data.reading import PreparedSource
from mtfrun.data.text_files import Patterns, TextLines
from mtfrun.data.tfds_text import TfdsText

# Bytes of a file that are checked at a time.
_CHUNK = 1 << 24


class PairSource(Protocol):
    """Pairs in splits. The order of a split's pairs is the same every time."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    def pairs(self, split: str) -> tf.data.Dataset:
        """Returns the pairs of `split`, in order, once: {"inputs", "targets"} string scalars.

        Raises DataError in one line if they do not exist.
        """


@dataclasses.dataclass(frozen=True)
class TfdsPairs(PreparedSource):
    """Two text features of a TFDS dataset. A PairSource.

    name: as in TfdsText; `number_words` is prepared on first use.
    inputs_feature, targets_feature: the features, both strings. Exchanged, they are the task the
        other way round.
    data_dir: by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """

    name: str
    inputs_feature: str = "inputs"
    targets_feature: str = "targets"
    data_dir: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return TfdsText(self.name, self.inputs_feature, self.data_dir).splits

    def files(self) -> PreparedFiles:
        """Returns where the dataset's files stand."""
        return TfdsText(self.name, self.inputs_feature, self.data_dir).files()

    def pairs(self, split: str) -> tf.data.Dataset:
        features = {INPUTS: self.inputs_feature, TARGETS: self.targets_feature}
        return tf.data.Dataset.zip(
            {
                name: TfdsText(self.name, feature, self.data_dir).documents(split)
                for name, feature in features.items()
            }
        )


@dataclasses.dataclass(frozen=True)
class TsvPairs:
    """Text files with one pair a line: the input, a tab, the target. A PairSource.

    A tab within a text cannot be written. A line without a tab, or with several, is an error before
    any pair is read.

    patterns: as in TextLines; without a mapping a hash of each line decides its split.
    """

    patterns: Patterns | Mapping[str, Patterns]

    @property
    def splits(self) -> tuple[str, ...]:
        return TextLines(self.patterns).splits

    def pairs(self, split: str) -> tf.data.Dataset:
        source = TextLines(self.patterns)
        lines = source.documents(split)
        for path in source.paths(split):
            _check_tabs(path)
        return lines.map(_split_at_tab)


def _check_tabs(path: str) -> None:
    """Raises DataError for the first line of a file that has not one tab.

    At the speed of reading: with a tab in every line, tabs and line ends alternate.
    """
    lines, marks = 0, np.zeros([0], np.uint8)
    last = b"\n"
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            data = np.frombuffer(chunk, np.uint8)
            # What is left of the chunk before is the tab of a line that goes on here.
            marks = np.append(marks, data[(data == ord("\t")) | (data == ord("\n"))])
            wrong = np.flatnonzero(marks != np.resize([ord("\t"), ord("\n")], marks.size))
            if wrong.size:
                raise _wrong_tabs(path, lines + int(wrong[0]) // 2)
            lines += marks.size // 2
            marks = marks[marks.size // 2 * 2 :]
            last = chunk[-1:]
    if not marks.size and last != b"\n":
        raise _wrong_tabs(path, lines)


def _wrong_tabs(path: str, line: int) -> DataError:
    with open(path, "rb") as file:
        tabs = next(itertools.islice(file, line, None)).count(b"\t")
    return DataError(
        f"{path}:{line + 1}: a line needs one tab, between input and target; this one has {tabs}"
    )


def _split_at_tab(line: tf.Tensor) -> dict[str, tf.Tensor]:
    parts = tf.strings.split(line, "\t")
    with tf.control_dependencies(
        [tf.debugging.assert_equal(tf.size(parts), 2, "a line of a TSV file needs one tab")]
    ):
        inputs, targets = tf.unstack(tf.ensure_shape(tf.identity(parts), [2]))
    return {INPUTS: inputs, TARGETS: targets}
