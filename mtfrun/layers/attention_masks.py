"""The masks of attention: terms of a bias that are 0 where a query may attend, else MASKED."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.attention_bias import AttentionBias, AttentionWindow, BiasTerm

# Mesh TensorFlow's value. Two masks may be added; a query that is masked everywhere attends
# uniformly.
MASKED = -1e9


def rename_length_to_memory_length(
    x: mtf.Tensor, length_name: str = "length", memory_length_name: str = "memory_length"
) -> mtf.Tensor:
    """Returns x with its length renamed to the memory's; x where it lacks `length_name`."""
    if length_name not in x.shape.dimension_names:
        return x
    return mtf.rename_dimension(x, length_name, memory_length_name)


@dataclasses.dataclass(frozen=True)
class CausalMask(BiasTerm):
    """A query {..., length} int32 sees the memory {..., memory_length} whose number is at most its.

    `after` bounds how many positions later than a query it sees.
    """

    query: mtf.Tensor
    memory: mtf.Tensor
    after: int | None = None

    @property
    def window(self) -> AttentionWindow:
        return AttentionWindow(after=self.after)

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        return _mask_where(mtf.less, self.query, self.memory, dtype)


@dataclasses.dataclass(frozen=True)
class SegmentMask(BiasTerm):
    """A query {..., length} int32 sees the memory {..., memory_length} of its packed document."""

    query: mtf.Tensor
    memory: mtf.Tensor

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        return _mask_where(mtf.not_equal, self.query, self.memory, dtype)


@dataclasses.dataclass(frozen=True)
class PaddingMask(BiasTerm):
    """Queries see the memory {..., memory_length} whose int32 ids are not 0."""

    memory: mtf.Tensor

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        return _mask(mtf.equal(self.memory, 0), dtype)


@dataclasses.dataclass(frozen=True)
class WindowMask(BiasTerm):
    """A query {length} sees memory {memory_length} less than `size` away; both int32 positions."""

    query: mtf.Tensor
    memory: mtf.Tensor
    size: int

    @property
    def window(self) -> AttentionWindow:
        return AttentionWindow(self.size - 1, self.size - 1)

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        distance = mtf.sub(self.query, self.memory, output_shape=_both(self.query, self.memory))
        return _mask(mtf.greater_equal(mtf.abs(distance), self.size), dtype)


def causal_mask(mesh: mtf.Mesh, length: mtf.Dimension) -> CausalMask:
    """Returns {length, memory_length}, where i sees 0..i, of ranges: no constant of the program."""
    memory_length = mtf.Dimension("memory_length", length.size)
    return CausalMask(mtf.range(mesh, length), mtf.range(mesh, memory_length), after=0)


def causal_mask_at(position: mtf.Tensor, memory_length: mtf.Dimension) -> CausalMask:
    """Returns the mask {memory_length} of a decoding step, which sees 0..position, an int32."""
    return CausalMask(position, mtf.range(position.mesh, memory_length))


def mask_segments(bias: AttentionBias, segments: mtf.Tensor | None) -> AttentionBias:
    """Returns the bias of self-attention within the documents {..., length}; None for one."""
    if segments is None:
        return bias
    return bias.plus(SegmentMask(segments, rename_length_to_memory_length(segments)))


def _both(query: mtf.Tensor, memory: mtf.Tensor) -> mtf.Shape:
    memory_only = [dim for dim in memory.shape if dim not in query.shape]
    return mtf.Shape([*query.shape, *memory_only])


def _mask_where(
    comparison: Callable[..., mtf.Tensor], query: mtf.Tensor, memory: mtf.Tensor, dtype: tf.DType
) -> mtf.Tensor:
    return _mask(comparison(query, memory, output_shape=_both(query, memory)), dtype)


def _mask(is_masked: mtf.Tensor, dtype: tf.DType) -> mtf.Tensor:
    zero = mtf.constant(is_masked.mesh, 0.0, dtype=dtype)
    return mtf.where(is_masked, MASKED, zero, output_shape=is_masked.shape)
