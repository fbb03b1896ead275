"""Requests of any size in batches of a fixed size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def in_batches(
    compute: Callable[..., Sequence[tf.Tensor]],
    size: int,
    inputs: Sequence[tf.Tensor],
    outputs: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
    """Returns compute(*inputs), which is called with `size` rows at a time.

    Args:
      compute: a function of tensors [size, ...]; a row of its results depends on the same row of
        its arguments only. The last batch is filled up with zeros.
      size: rows of a batch.
      inputs: tensors [rows, ...].
      outputs: the results [size, ...] of `compute`.
    """
    rows = tf.shape(inputs[0])[0]
    number = -(-rows // size)

    def batches(x: tf.Tensor) -> tf.Tensor:
        padding = [[0, number * size - rows], *[[0, 0]] * (x.shape.rank - 1)]
        return tf.reshape(tf.pad(x, padding), tf.concat([[number, size], tf.shape(x)[1:]], 0))

    results = tf.map_fn(
        lambda xs: tuple(compute(*xs)),
        tuple(map(batches, inputs)),
        fn_output_signature=tuple(outputs),
        parallel_iterations=1,
    )
    return [tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0))[:rows] for x in results]
