"""A text source for tests."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class InMemory:
    """The given documents, as every split."""

    texts: tuple[bytes, ...]
    splits: tuple[str, ...] = ("train", "validation")

    def documents(self, split: str) -> tf.data.Dataset:
        """Returns all documents, whatever the split."""
        return tf.data.Dataset.from_tensor_slices(
            tf.constant(self.texts, tf.string, [len(self.texts)])
        )
