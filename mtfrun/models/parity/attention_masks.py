"""Attention masks as tensors: 0 where a query may attend, MASKED where not; float32 by default."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers import MASKED, rename_length_to_memory_length


def attention_mask_autoregressive(
    query_pos: mtf.Tensor, dtype: tf.DType = tf.float32
) -> mtf.Tensor:
    """Returns {..., length, memory_length}: attend to the same or earlier positions."""
    return _mask(mtf.less(query_pos, rename_length_to_memory_length(query_pos)), dtype)


def attention_mask_same_segment(
    query_segment: mtf.Tensor,
    memory_segment: mtf.Tensor | None = None,
    dtype: tf.DType = tf.float32,
) -> mtf.Tensor:
    """Returns {..., length, memory_length}: attend within the same packed document."""
    memory = query_segment if memory_segment is None else memory_segment
    return _mask(mtf.not_equal(query_segment, rename_length_to_memory_length(memory)), dtype)


def attention_mask_ignore_padding(inputs: mtf.Tensor, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns {..., memory_length}: attend to ids {..., length or memory_length} that are not 0."""
    return _mask(mtf.equal(rename_length_to_memory_length(inputs), 0), dtype)


def _mask(is_masked: mtf.Tensor, dtype: tf.DType) -> mtf.Tensor:
    zero = mtf.constant(is_masked.mesh, 0.0, dtype=dtype)
    return mtf.where(is_masked, MASKED, zero, output_shape=is_masked.shape)
