"""The bias of attention logits: the sum of masks and other terms.

A bias of all queries and memory positions has length * memory_length entries for every mask, in
bfloat16 2 GB for 32,768 positions. Here it is a sum of terms, functions of a few values for each
position, such as its document: a block only needs the values of its positions.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.recompute import DIFFERENTIATED


class AttentionWindow(NamedTuple):
    """The distances `before` and `after` (None: any) that queries see, for skipping blocks."""

    before: int | None = None
    after: int | None = None

    def intersection(self, other: AttentionWindow) -> AttentionWindow:
        """Returns the window of a sum of two masks."""
        limits = ([x for x in pair if x is not None] for pair in zip(self, other, strict=True))
        return AttentionWindow(*(min(limit, default=None) for limit in limits))


class BiasTerm(abc.ABC):
    """A lazily evaluated attention bias, a frozen dataclass of its inputs.

    A tensor {..., length} is of the queries, {..., memory_length} of the memory, and a tensor
    without either of all positions; the names are free. `differentiated_field()`s have gradients.
    """

    @property
    def window(self) -> AttentionWindow:
        """The largest distances that queries see."""
        return AttentionWindow()

    @abc.abstractmethod
    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns {..., length, memory_length}, or less; in `dtype`, unless it is trained."""

    def tensors(self) -> dict[str, mtf.Tensor]:
        """Returns the tensors by the name of their field."""
        record: Any = self
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(record)}
        return {name: value for name, value in values.items() if isinstance(value, mtf.Tensor)}

    def map(self, function: Callable[[mtf.Tensor], mtf.Tensor]) -> BiasTerm:
        """Returns the term with function(tensor) for each of its tensors."""
        record: Any = self
        changed = {name: function(x) for name, x in self.tensors().items()}
        mapped: BiasTerm = dataclasses.replace(record, **changed)
        return mapped


@dataclasses.dataclass(frozen=True)
class AttentionBias:
    """The sum of terms; without terms every query sees all of the memory."""

    terms: tuple[BiasTerm, ...] = ()

    @classmethod
    def of(cls, *terms: BiasTerm) -> AttentionBias:
        """Returns the sum of the terms."""
        return cls(terms)

    def plus(self, term: BiasTerm) -> AttentionBias:
        """Returns the sum with one more term."""
        return AttentionBias((*self.terms, term))

    def map(self, function: Callable[[mtf.Tensor], mtf.Tensor]) -> AttentionBias:
        """Returns the bias with function(tensor) for each tensor of its terms."""
        return AttentionBias(tuple(term.map(function) for term in self.terms))

    @property
    def window(self) -> AttentionWindow:
        return functools.reduce(
            AttentionWindow.intersection, (term.window for term in self.terms), AttentionWindow()
        )

    def dimension(self, name: str) -> mtf.Dimension:
        """Returns the dimension of this name of a term's tensor, or raises a ShapeError."""
        for term in self.terms:
            for x in term.tensors().values():
                if name in x.shape.dimension_names:
                    return x.shape.get_dim_by_name(name)
        raise mtf.ShapeError(f"no term of the bias has a dimension {name!r}")

    def value(
        self, dtype: tf.DType = tf.float32, order: mtf.ShapeLike | None = None
    ) -> mtf.Tensor | None:
        """Returns {..., length, memory_length}, in float32 if a term is; None without terms.

        Masks are in `dtype`; `order` has the dimensions of the logits that it is added to.
        """
        values = [term.value(dtype) for term in self.terms]
        return functools.reduce(functools.partial(_sum, order), values) if values else None


# Every query sees all of the memory.
NO_BIAS = AttentionBias()


@dataclasses.dataclass(frozen=True)
class TensorBias(BiasTerm):
    """Any {..., length, memory_length}, or {..., memory_length} if other terms mask the memory."""

    bias: mtf.Tensor = dataclasses.field(metadata=DIFFERENTIATED)

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns the tensor, whatever its type."""
        return self.bias


def _sum(order: mtf.ShapeLike | None, a: mtf.Tensor, b: mtf.Tensor) -> mtf.Tensor:
    if a.dtype != b.dtype:
        a, b = mtf.to_float(a), mtf.to_float(b)
    if order is None:
        return a + b
    dims = [dim for dim in mtf.convert_to_shape(order) if dim in a.shape or dim in b.shape]
    return mtf.add(a, b, output_shape=dims)


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
    """A query sees memory at its position or earlier; both are int32 positions.

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
    """A query {..., length} int32 sees the memory {..., memory_length} of its packed document.

    With `shares_negative` all see the memory of negative documents, such as a learned prompt.
    """

    query: mtf.Tensor
    memory: mtf.Tensor
    shares_negative: bool = False

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        if not self.shares_negative:
            return _mask_where(mtf.not_equal, self.query, self.memory, dtype)
        shape = _both(self.query, self.memory)
        is_other = mtf.not_equal(self.query, self.memory, output_shape=shape)
        is_document = mtf.greater_equal(self.memory, 0)
        return _mask(mtf.logical_and(is_other, is_document, output_shape=is_other.shape), dtype)


@dataclasses.dataclass(frozen=True)
class PaddingMask(BiasTerm):
    """Queries see memory that is not padding; `memory` {..., memory_length} are int32 ids."""

    memory: mtf.Tensor
    padding_id: int = 0

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        return _mask(mtf.equal(self.memory, self.padding_id), dtype)


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
        return _mask(mtf.greater_equal(_distance(self.query, self.memory), self.size), dtype)


@dataclasses.dataclass(frozen=True)
class ColumnMask(BiasTerm):
    """A query sees memory at most `distance` columns away in an image.

    `query` {..., length} and `memory` {..., memory_length} int32 are columns.
    """

    query: mtf.Tensor
    memory: mtf.Tensor
    distance: int

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        return _mask(mtf.greater(_distance(self.query, self.memory), self.distance), dtype)


def causal_mask(mesh: mtf.Mesh, length: mtf.Dimension) -> CausalMask:
    """Returns {length, memory_length}, where i sees 0..i, of ranges: no constant of the program."""
    memory_length = mtf.Dimension("memory_length", length.size)
    return CausalMask(mtf.range(mesh, length), mtf.range(mesh, memory_length), after=0)


def causal_mask_at(position: mtf.Tensor, memory_length: mtf.Dimension) -> CausalMask:
    """Returns the mask {memory_length} of a decoding step, which sees 0..position, an int32."""
    return CausalMask(position, mtf.range(position.mesh, memory_length))


def mask_segments(
    bias: AttentionBias, segments: mtf.Tensor | None, *, shares_negative: bool = False
) -> AttentionBias:
    """Returns the bias of self-attention within the documents {..., length}; None for one.

    See `SegmentMask`.
    """
    if segments is None:
        return bias
    memory = rename_length_to_memory_length(segments)
    return bias.plus(SegmentMask(segments, memory, shares_negative))


def causal_bias(
    mesh: mtf.Mesh,
    length: mtf.Dimension,
    segments: mtf.Tensor | None,
    *,
    shares_negative: bool = False,
) -> AttentionBias:
    """Returns the mask by which positions see earlier ones of the same document.

    `shares_negative`: see `SegmentMask`.
    """
    bias = AttentionBias.of(causal_mask(mesh, length))
    return mask_segments(bias, segments, shares_negative=shares_negative)


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


def _both(query: mtf.Tensor, memory: mtf.Tensor) -> mtf.Shape:
    memory_only = [dim for dim in memory.shape if dim not in query.shape]
    return mtf.Shape([*query.shape, *memory_only])


def _distance(query: mtf.Tensor, memory: mtf.Tensor) -> mtf.Tensor:
    return mtf.abs(mtf.sub(query, memory, output_shape=_both(query, memory)))


def _mask_where(
    comparison: Callable[..., mtf.Tensor], query: mtf.Tensor, memory: mtf.Tensor, dtype: tf.DType
) -> mtf.Tensor:
    return _mask(comparison(query, memory, output_shape=_both(query, memory)), dtype)


def _mask(is_masked: mtf.Tensor, dtype: tf.DType) -> mtf.Tensor:
    zero = mtf.constant(is_masked.mesh, 0.0, dtype=dtype)
    return mtf.where(is_masked, MASKED, zero, output_shape=is_masked.shape)
