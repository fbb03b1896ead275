from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def in_batches(
    compute: Callable[..., Sequence[tf.Tensor]],
    size: int,
    inputs: Sequence[tf.Tensor],
    outputs: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
    """Computes `size` rows at a time, padded with zeros; rows must not depend on each other."""
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
