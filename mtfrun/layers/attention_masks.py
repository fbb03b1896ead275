"""Additive attention masks: 0 where a query may attend, MASKED where not; float32 by default."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf

# Mesh TensorFlow's value. Two masks may be added; a query that is masked everywhere attends
# uniformly.
MASKED = -1e9


def rename_length_to_memory_length(
    x: mtf.Tensor, length_name: str = "length", memory_length_name: str = "memory_length"
) -> mtf.Tensor:
    """Returns x with its length renamed to that of a memory; x where it lacks `length_name`."""
    if length_name not in x.shape.dimension_names:
        return x
    return mtf.rename_dimension(x, length_name, memory_length_name)


def attention_mask_causal(
    mesh: mtf.Mesh, length: mtf.Dimension, memory_length: mtf.Dimension
) -> mtf.Tensor:
    """Returns {length, memory_length}: position i attends to 0..i; two ranges, compared."""
    query, memory = mtf.range(mesh, length), mtf.range(mesh, memory_length)
    return _mask(mtf.less(query, memory, output_shape=[length, memory_length]), tf.float32)


def attention_mask_autoregressive(
    query_pos: mtf.Tensor, dtype: tf.DType = tf.float32
) -> mtf.Tensor:
    """Returns {..., length, memory_length}: attend to the same or earlier positions.

    Args:
      query_pos: {..., length} int, the positions of the queries, and of the memory.
      dtype: of the mask.
    """
    return _mask(mtf.less(query_pos, rename_length_to_memory_length(query_pos)), dtype)


def attention_mask_up_to(memory_length: mtf.Dimension, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {memory_length}: attend to 0..position, an int32 scalar; for steps of decoding."""
    memory = mtf.range(position.mesh, memory_length)
    return _mask(mtf.greater(memory, position), tf.float32)


def attention_mask_same_segment(
    query_segment: mtf.Tensor,
    memory_segment: mtf.Tensor | None = None,
    dtype: tf.DType = tf.float32,
) -> mtf.Tensor:
    """Returns {..., length, memory_length}: attend within the same packed document.

    Args:
      query_segment: {..., length} int.
      memory_segment: {..., length} or {..., memory_length} int; by default the queries'.
      dtype: of the mask.
    """
    memory = query_segment if memory_segment is None else memory_segment
    return _mask(mtf.not_equal(query_segment, rename_length_to_memory_length(memory)), dtype)


def attention_mask_ignore_padding(inputs: mtf.Tensor, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns {..., memory_length}: attend to ids {..., length or memory_length} that are not 0."""
    return _mask(mtf.equal(rename_length_to_memory_length(inputs), 0), dtype)


def _mask(is_masked: mtf.Tensor, dtype: tf.DType) -> mtf.Tensor:
    zero = mtf.constant(is_masked.mesh, 0.0, dtype=dtype)
    return mtf.where(is_masked, MASKED, zero, output_shape=is_masked.shape)
