"""Endless shuffled epochs whose position can be saved, and padding of the last batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Batches that are prefetched. The iterator's state, saved with a checkpoint, includes them.
PREFETCHED_BATCHES = 2


def endless(
    epoch: Callable[[tf.Tensor], tf.data.Dataset], *, seed: int, seeds_per_epoch: int = 1
) -> tf.data.Dataset:
    """Returns the elements of epoch after epoch.

    The order is a function of (seed, epoch). With shuffle(...).repeat() instead, a checkpoint taken
    just when a batch has reached the end of the data loses the next epoch's seed (TF 2.21).

    Args:
      epoch: returns the elements of an epoch; called with the epoch's first seed, int64.
      seed: of all epochs.
      seeds_per_epoch: number of consecutive seeds that an epoch uses.
    """
    first = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return tf.data.Dataset.counter().flat_map(
        lambda number: epoch(first + seeds_per_epoch * number)
    )


def shuffled(rows: tf.data.Dataset, buffer: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Returns the rows in an order that the seed fixes, each drawn from a buffer.

    TensorFlow combines the seed with that of tf.random.set_seed, if a program sets one.
    """
    return rows.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)


def ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the batches with prefetching; an iterator over them can be saved."""
    options = tf.data.Options()
    # Saving refuses "external" state. Here that is the placeholder of a seed generator, which a
    # shuffle without reshuffling never uses.
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    return batches.prefetch(PREFETCHED_BATCHES).with_options(options)


def filled(batches: tf.data.Dataset, batch: int, padding: int = 0) -> tf.data.Dataset:
    """Returns the batches, the last one filled up to `batch` rows with rows of padding."""

    def fill(values: tf.Tensor) -> tf.Tensor:
        missing = [[0, batch - tf.shape(values)[0]], *[[0, 0]] * (values.shape.rank - 1)]
        values_and_padding = tf.pad(values, missing, constant_values=padding)
        return tf.ensure_shape(values_and_padding, [batch, *values.shape[1:]])

    return batches.map(lambda features: tf.nest.map_structure(fill, features))
