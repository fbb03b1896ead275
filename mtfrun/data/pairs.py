"""Sources of pairs of an input text and a target text."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.prepared_files import PreparedFiles
from mtfrun.data.reading import PreparedSource
from mtfrun.data.text_files import Patterns, TextLines
from mtfrun.data.tfds_text import TfdsText

# Bytes of a file that are checked per read.
_CHUNK = 1 << 24


class PairSource(Protocol):
    """Pairs in splits. The order of a split's pairs is the same every time."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    def pairs(self, split: str) -> tf.data.Dataset:
        """Returns the pairs of `split`, in order, once: {"inputs", "targets"} string scalars.

        Raises:
          DataError: they do not exist.
        """


@dataclasses.dataclass(frozen=True)
class TfdsPairs(PreparedSource):
    """A PairSource of two text features of a TFDS dataset.

    Attributes:
      name: as in TfdsText; `number_words` is prepared on first use.
      inputs_feature, targets_feature: the features, both strings. Exchanging them inverts the task.
      data_dir: by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """

    name: str
    inputs_feature: str = "inputs"
    targets_feature: str = "targets"
    data_dir: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the dataset."""
        return TfdsText(self.name, self.inputs_feature, self.data_dir).splits

    def files(self) -> PreparedFiles:
        """Returns the location of the dataset's files."""
        return TfdsText(self.name, self.inputs_feature, self.data_dir).files()

    def pairs(self, split: str) -> tf.data.Dataset:
        """Returns the pairs in the order of the dataset's files."""
        features = {INPUTS: self.inputs_feature, TARGETS: self.targets_feature}
        return tf.data.Dataset.zip(
            {
                name: TfdsText(self.name, feature, self.data_dir).documents(split)
                for name, feature in features.items()
            }
        )


@dataclasses.dataclass(frozen=True)
class TsvPairs:
    """A PairSource of text files with one pair per line: the input, a tab, the target.

    Texts cannot contain tabs. A line that does not have exactly one tab is an error before any pair
    is read.

    Attributes:
      patterns: as in TextLines; without a mapping a hash of each line decides its split.
    """

    patterns: Patterns | Mapping[str, Patterns]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the patterns."""
        return TextLines(self.patterns).splits

    def pairs(self, split: str) -> tf.data.Dataset:
        """Returns the pairs in the order of the lines, after all lines have been checked."""
        source = TextLines(self.patterns)
        lines = source.documents(split)
        for path in source.paths(split):
            _check_tabs(Path(path))
        return lines.map(_split_at_tab)


def _check_tabs(path: Path) -> None:
    """Raises DataError for the first line of a file that does not have exactly one tab.

    As fast as reading: where every line has one tab, tabs and line ends alternate.
    """
    lines, marks = 0, np.zeros([0], np.uint8)
    last = b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            data = np.frombuffer(chunk, np.uint8)
            # The previous chunk may have left the tab of a line that continues in this chunk.
            marks = np.append(marks, data[(data == ord("\t")) | (data == ord("\n"))])
            wrong = np.flatnonzero(marks != np.resize([ord("\t"), ord("\n")], marks.size))
            if wrong.size:
                raise _wrong_tabs(path, lines + int(wrong[0]) // 2)
            lines += marks.size // 2
            marks = marks[marks.size // 2 * 2 :]
            last = chunk[-1:]
    if not marks.size and last != b"\n":
        raise _wrong_tabs(path, lines)


def _wrong_tabs(path: Path, line: int) -> DataError:
    with path.open("rb") as file:
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
