"""Sources of texts and of pairs in memory."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class InMemory:
    """The same documents in every split."""

    texts: tuple[bytes, ...]
    splits: tuple[str, ...] = ("train", "validation")

    def documents(self, split: str) -> tf.data.Dataset:
        """Returns all documents, whatever the split."""
        return tf.data.Dataset.from_tensor_slices(
            tf.constant(self.texts, tf.string, [len(self.texts)])
        )


@dataclasses.dataclass(frozen=True)
class InMemoryPairs:
    """The same (input, target) pairs in every split."""

    texts: tuple[tuple[str, str], ...]
    splits: tuple[str, ...] = ("train", "validation")

    def pairs(self, split: str) -> tf.data.Dataset:
        """Returns all pairs, whatever the split."""
        return tf.data.Dataset.from_tensor_slices(
            {
                name: tf.constant([pair[i] for pair in self.texts], tf.string, [len(self.texts)])
                for i, name in enumerate(("inputs", "targets"))
            }
        )


def numbered_pairs(count: int) -> tuple[tuple[str, str], ...]:
    """Returns pairs (str(i), "x" * (i % 9)) of numbers."""
    return tuple((str(i), "x" * (i % 9)) for i in range(count))
