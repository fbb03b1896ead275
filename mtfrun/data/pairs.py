"""Pairs of an input text and a target text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.text_files import Patterns, TextLines
from mtfrun.data.tfds_text import TfdsText


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
class TfdsPairs:
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

    A tab within a text cannot be written. A line without a tab, or with several, is an error as
    soon as it is read.

    patterns: as in TextLines; without a mapping a hash of each line decides its split.
    """

    patterns: Patterns | Mapping[str, Patterns]

    @property
    def splits(self) -> tuple[str, ...]:
        return TextLines(self.patterns).splits

    def pairs(self, split: str) -> tf.data.Dataset:
        lines = TextLines(self.patterns).documents(split)
        for line in lines.take(1).as_numpy_iterator():
            tabs = line.count(b"\t")
            if tabs != 1:
                raise DataError(
                    f"TsvPairs({self.patterns!r}): a line needs one tab, between input and target; "
                    f"the first has {tabs}"
                )
        return lines.map(_split_at_tab)


def _split_at_tab(line: tf.Tensor) -> dict[str, tf.Tensor]:
    parts = tf.strings.split(line, "\t")
    with tf.control_dependencies(
        [tf.debugging.assert_equal(tf.size(parts), 2, "a line of a TSV file needs one tab")]
    ):
        inputs, targets = tf.unstack(tf.ensure_shape(tf.identity(parts), [2]))
    return {INPUTS: inputs, TARGETS: targets}
