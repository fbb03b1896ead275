"""What is added to the logits of attention, in a form of which any block can be computed.

A bias of all queries and all memory positions has length * memory_length entries for every mask, in
bfloat16 2 GB for 32,768 positions. Here it is a sum of terms that are functions of a few numbers a
position, such as its document. A block of the bias is that of the same terms with these numbers cut
to the positions of the block.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.attention_masks import MASKED, rename_length_to_memory_length
from mtfrun.layers.recompute import DIFFERENTIATED

RecordT = TypeVar("RecordT")
TermT = TypeVar("TermT", bound="BiasTerm")


class Reach(NamedTuple):
    """How far queries see: at most from `before` positions earlier to `after` later ones.

    None stands for any distance. It is a bound, by which blocks are skipped; not a mask.
    """

    before: int | None = None
    after: int | None = None

    def intersection(self, other: Reach) -> Reach:
        """Returns the reach of a sum of two masks."""
        return Reach(*map(_smaller, self, other))


class BiasTerm(abc.ABC):
    """A term of a bias, a frozen dataclass whose tensors have the numbers that it is computed from.

    A tensor {..., length} belongs to the queries, {..., memory_length} to the memory, and others to
    all positions. The names of the two dimensions are not fixed. A tensor that the bias is to have
    a gradient for is a `differentiated()` field.
    """

    @property
    def reach(self) -> Reach:
        """How far queries see at most."""
        return Reach()

    @abc.abstractmethod
    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns {..., length, memory_length}, or less; in `dtype`, unless it is trained."""

    def map(self: TermT, function: Callable[[mtf.Tensor], mtf.Tensor]) -> TermT:
        """Returns the term with function(tensor) for each of its tensors."""
        return map_tensors(function, self)


@dataclasses.dataclass(frozen=True)
class AttentionBias:
    """The sum of terms; without terms every query sees all of the memory.

    Attributes:
      terms: see `BiasTerm`.
    """

    terms: tuple[BiasTerm, ...] = ()

    @classmethod
    def of(cls, *terms: BiasTerm) -> AttentionBias:
        """Returns the sum of the terms."""
        return cls(terms)

    def plus(self, term: BiasTerm) -> AttentionBias:
        """Returns the sum with one more term."""
        return AttentionBias((*self.terms, term))

    def plus_segments(self, segments: mtf.Tensor | None) -> AttentionBias:
        """Returns the bias of self-attention within the documents {..., length}; None for one."""
        if segments is None:
            return self
        return self.plus(SameSegment(segments, rename_length_to_memory_length(segments)))

    def map(self, function: Callable[[mtf.Tensor], mtf.Tensor]) -> AttentionBias:
        """Returns the bias with function(tensor) for each tensor of its terms."""
        return AttentionBias(tuple(term.map(function) for term in self.terms))

    @property
    def reach(self) -> Reach:
        """How far queries see at most."""
        return functools.reduce(Reach.intersection, (term.reach for term in self.terms), Reach())

    def dimension(self, name: str) -> mtf.Dimension:
        """Returns the dimension of this name of a tensor of its terms.

        Raises:
          ShapeError: none has it.
        """
        for term in self.terms:
            for x in tensors_of(term):
                if name in x.shape.dimension_names:
                    return x.shape.get_dim_by_name(name)
        raise mtf.ShapeError(f"no term of the bias has a dimension {name!r}")

    def value(
        self, dtype: tf.DType = tf.float32, order: mtf.ShapeLike | None = None
    ) -> mtf.Tensor | None:
        """Returns {..., length, memory_length}, in float32 if a term is; None without terms.

        Args:
          dtype: of masks.
          order: the dimensions of the logits that it is added to, in their order.
        """
        values = [term.value(dtype) for term in self.terms]
        return functools.reduce(functools.partial(_sum, order), values) if values else None


# Every query sees all of the memory.
NO_BIAS = AttentionBias()


@dataclasses.dataclass(frozen=True)
class GivenBias(BiasTerm):
    """A tensor; it takes the memory that the other terms avoid, but may be any function.

    Attributes:
      bias: {..., length, memory_length}, or {..., memory_length}.
    """

    bias: mtf.Tensor = dataclasses.field(metadata=DIFFERENTIATED)

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns the tensor, in its own type."""
        return self.bias


@dataclasses.dataclass(frozen=True)
class SeesUpTo(BiasTerm):
    """A query sees the memory whose number is at most its own.

    Attributes:
      query: {..., length} int32.
      memory: {..., memory_length} int32.
      after: how many positions later than a query those are at most that it sees.
    """

    query: mtf.Tensor
    memory: mtf.Tensor
    after: int | None = None

    @property
    def reach(self) -> Reach:
        """How far queries see at most."""
        return Reach(after=self.after)

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns the mask."""
        return _masked_where(mtf.less, self.query, self.memory, dtype)


@dataclasses.dataclass(frozen=True)
class SameSegment(BiasTerm):
    """A query sees the memory of the same packed document.

    Attributes:
      query: {..., length} int32.
      memory: {..., memory_length} int32.
    """

    query: mtf.Tensor
    memory: mtf.Tensor

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns the mask."""
        return _masked_where(mtf.not_equal, self.query, self.memory, dtype)


@dataclasses.dataclass(frozen=True)
class NotPadding(BiasTerm):
    """Queries see the memory whose ids are not 0.

    Attributes:
      memory: {..., memory_length} int32.
    """

    memory: mtf.Tensor

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns the mask."""
        return _mask(mtf.equal(self.memory, 0), dtype)


@dataclasses.dataclass(frozen=True)
class Window(BiasTerm):
    """A query sees the memory that is less than `size` positions away.

    Attributes:
      query: {length} int32, positions.
      memory: {memory_length} int32.
      size: the number of positions that a query sees on either side, its own included.
    """

    query: mtf.Tensor
    memory: mtf.Tensor
    size: int

    @property
    def reach(self) -> Reach:
        """How far queries see at most."""
        return Reach(self.size - 1, self.size - 1)

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns the mask."""
        distance = mtf.sub(self.query, self.memory, output_shape=_both(self.query, self.memory))
        return _mask(mtf.greater_equal(mtf.abs(distance), self.size), dtype)


def causal(mesh: mtf.Mesh, length: mtf.Dimension) -> SeesUpTo:
    """Returns the mask of {length, memory_length} by which position i sees 0..i.

    It is two ranges, which are compared when it is needed: never a constant of the program.
    """
    memory_length = mtf.Dimension("memory_length", length.size)
    return SeesUpTo(mtf.range(mesh, length), mtf.range(mesh, memory_length), after=0)


def map_tensors(function: Callable[[mtf.Tensor], mtf.Tensor], record: RecordT) -> RecordT:
    """Returns a dataclass with function(tensor) for each field that is a tensor."""
    instance: Any = record
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(instance)}
    changed = {
        name: function(value) for name, value in values.items() if isinstance(value, mtf.Tensor)
    }
    mapped: RecordT = dataclasses.replace(instance, **changed)
    return mapped


def tensors_of(record: Any) -> list[mtf.Tensor]:
    """Returns the fields of a dataclass that are tensors."""
    values = (getattr(record, field.name) for field in dataclasses.fields(record))
    return [value for value in values if isinstance(value, mtf.Tensor)]


def _smaller(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _sum(order: mtf.ShapeLike | None, a: mtf.Tensor, b: mtf.Tensor) -> mtf.Tensor:
    if a.dtype != b.dtype:
        a, b = mtf.to_float(a), mtf.to_float(b)
    if order is None:
        return a + b
    dims = [dim for dim in mtf.convert_to_shape(order) if dim in a.shape or dim in b.shape]
    return mtf.add(a, b, output_shape=dims)


def _both(query: mtf.Tensor, memory: mtf.Tensor) -> mtf.Shape:
    """Returns the dimensions of both, with those that only the memory has last."""
    own = [dim for dim in memory.shape if dim not in query.shape]
    return mtf.Shape([*query.shape, *own])


def _masked_where(
    comparison: Callable[..., mtf.Tensor], query: mtf.Tensor, memory: mtf.Tensor, dtype: tf.DType
) -> mtf.Tensor:
    return _mask(comparison(query, memory, output_shape=_both(query, memory)), dtype)


def _mask(is_masked: mtf.Tensor, dtype: tf.DType) -> mtf.Tensor:
    zero = mtf.constant(is_masked.mesh, 0.0, dtype=dtype)
    return mtf.where(is_masked, MASKED, zero, output_shape=is_masked.shape)
