"""Masks of prefix language models, whose rows are "inputs end targets end"."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding import END_ID, count_prompt_ids
from mtfrun.layers import AttentionBias, CausalMask, mask_segments, rename_length_to_memory_length


def is_delimited_input(targets: mtf.Tensor, length: mtf.Dimension) -> mtf.Tensor:
    """Returns {..., length} bool: whether an id belongs to inputs, their end included.

    The number of ends before inputs is even, also in packed rows.
    """
    ends = mtf.cumsum(mtf.cast(mtf.equal(targets, END_ID), tf.int32), length, exclusive=True)
    return mtf.equal(mtf.mod(ends, 2), 0)


def prefix_of_delimited(
    targets: mtf.Tensor, length: mtf.Dimension, *, with_padding: bool = False
) -> mtf.Tensor:
    """Returns {..., length} bool: the positions that see each other; see `is_delimited_input`.

    They predict inputs, or read their end and predict the first target. `with_padding`: padding
    after the last end counts as inputs do, so that all positions see it.
    """
    inside = mtf.cast(is_delimited_input(targets, length), tf.int32)
    reads_inputs = mtf.maximum(inside, mtf.shift(inside, 1, length, wrap=False))
    reads = mtf.greater(reads_inputs, 0)
    return reads if with_padding else mtf.logical_and(reads, mtf.not_equal(targets, 0))


def prefix_of_prompts(prompts: mtf.Tensor, length: mtf.Dimension) -> mtf.Tensor:
    """Returns {..., length} bool: the positions that predict or read the ids of a prompt."""
    positions = mtf.range(prompts.mesh, length)
    number = count_prompt_ids(prompts, length)
    return mtf.less_equal(positions, number, output_shape=prompts.shape)


def prefix_bias(
    length: mtf.Dimension, in_prefix: mtf.Tensor, segments: mtf.Tensor | None
) -> AttentionBias:
    """Returns the mask by which positions see earlier ones of their document, and the prefix."""
    # As in Mesh TensorFlow, a position sees positions of the same or a lower priority.
    inside = mtf.greater(mtf.cast(in_prefix, tf.int32), 0)
    positions = mtf.range(in_prefix.mesh, length)
    priority = mtf.where(inside, 0, positions, output_shape=in_prefix.shape)
    sees = CausalMask(priority, rename_length_to_memory_length(priority))
    return mask_segments(AttentionBias.of(sees), segments)
