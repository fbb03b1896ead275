"""Additive masks: 0 where a query may attend, MASKED where not; float32."""

from __future__ import annotations

import numpy as np

from mtfrun import mtf

# Mesh TensorFlow's value. Two masks may be added up; a row that is masked everywhere attends
# uniformly.
MASKED = -1e9


def attention_mask_autoregressive(
    mesh: mtf.Mesh, length: mtf.Dimension, memory_length: mtf.Dimension
) -> mtf.Tensor:
    """Returns {length, memory_length}: position i attends to 0..i; a constant of the graph."""
    query = np.arange(length.size)[:, np.newaxis]
    memory = np.arange(memory_length.size)[np.newaxis, :]
    mask = np.where(memory <= query, 0.0, MASKED)
    return mtf.constant(mesh, mask, [length, memory_length])


def attention_mask_up_to(memory_length: mtf.Dimension, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {memory_length}: attend to 0..position, an int32 scalar; for incremental decoding."""
    memory = mtf.range(position.mesh, memory_length)
    return _mask(mtf.greater(memory, position))


def attention_mask_same_segment(
    query_segment: mtf.Tensor, memory_segment: mtf.Tensor
) -> mtf.Tensor:
    """Returns {..., length, memory_length}: attend within the same packed document.

    Args:
      query_segment: {..., length} int.
      memory_segment: {..., memory_length} int.
    """
    return _mask(mtf.not_equal(query_segment, memory_segment))


def attention_mask_ignore_padding(memory_ids: mtf.Tensor) -> mtf.Tensor:
    """Returns {..., memory_length}: attend to ids {..., memory_length} that are not 0."""
    return _mask(mtf.equal(memory_ids, 0))


def _mask(is_masked: mtf.Tensor) -> mtf.Tensor:
    zero = mtf.constant(is_masked.mesh, 0.0)
    return mtf.where(is_masked, MASKED, zero, output_shape=is_masked.shape)
