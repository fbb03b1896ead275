"""Operations of TensorFlow in a form that DTensor supports."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def stack(values: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    """Returns tf.stack: DTensor gathers its last dimension, see the case `stack`."""
    return tf.concat([tf.expand_dims(value, axis) for value in values], axis)


def reverse(value: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns tf.reverse along one axis, for which DTensor has no rule.

    See tests/mtf/test_transposed_convolution.py::test_blocks_change_no_transposed_convolution.
    """
    return tf.concat(tf.split(value, value.shape[axis], axis)[::-1], axis)


def choose(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor, *, rank: int) -> tf.Tensor:
    """Returns tf.where, of a scalar condition too: the case `where_of_a_scalar_condition`.

    DTensor ends the process where a scalar chooses between tensors; `rank` is that of the result.
    """
    if not condition.shape.rank:
        condition = tf.reshape(condition, [1] * rank)
    return tf.where(condition, x, y)


def copy_loop_variable(value: tf.Tensor) -> tf.Tensor:
    """Returns a copy of a value that the body of a loop computes.

    DTensor ends the process where a body returns a loop variable unchanged, or only lays it out
    again: the case `while_loop_with_a_constant`.
    """
    return tf.identity(value)
