"""Inputs of signatures that are ids."""

from __future__ import annotations

import tensorflow as tf

ID_INPUTS = (
    tf.TensorSpec([None, None], tf.int32, "ids"),
    tf.TensorSpec([None], tf.int32, "lengths"),
)
"""Ids of prompts [batch, length], without an end, and their numbers [batch]."""


def checked(ids: tf.Tensor, lengths: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns ids and lengths; requests with others than those of `size` ids are refused."""
    columns = tf.shape(ids)[1]
    within = tf.where(tf.sequence_mask(lengths, columns), ids, 0)
    checks = [
        tf.debugging.assert_non_negative(lengths, "lengths must not be negative"),
        tf.debugging.assert_less_equal(
            lengths, columns, "lengths must be at most the number of columns of ids"
        ),
        tf.debugging.assert_less(within, size, f"ids must be below {size}, the vocabulary's size"),
        tf.debugging.assert_non_negative(within, "ids must not be negative"),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(ids), tf.identity(lengths)
