"""The bias of attention logits, in a form of which any block can be computed.

A bias of all queries and memory positions has length * memory_length entries for every mask, in
bfloat16 2 GB for 32,768 positions. Here it is a sum of terms that are functions of a few numbers a
position, such as its document: a block needs the numbers of its positions only.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.recompute import DIFFERENTIATED

RecordT = TypeVar("RecordT")
TermT = TypeVar("TermT", bound="BiasTerm")


class AttentionWindow(NamedTuple):
    """How far queries see `before` and `after` (None: any): it skips blocks and is not a mask."""

    before: int | None = None
    after: int | None = None

    def intersection(self, other: AttentionWindow) -> AttentionWindow:
        """Returns the window of a sum of two masks."""
        return AttentionWindow(*map(_smaller, self, other))


class BiasTerm(abc.ABC):
    """A term of a bias, a frozen dataclass whose tensors are the numbers that it is computed from.

    A tensor {..., length} is of the queries, {..., memory_length} of the memory, one with neither
    of all positions; the names are free. `differentiated_field()`s have gradients.
    """

    @property
    def window(self) -> AttentionWindow:
        """How far queries see at most."""
        return AttentionWindow()

    @abc.abstractmethod
    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns {..., length, memory_length}, or less; in `dtype`, unless it is trained."""

    def map(self: TermT, function: Callable[[mtf.Tensor], mtf.Tensor]) -> TermT:
        """Returns the term with function(tensor) for each of its tensors."""
        return map_tensors(function, self)


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
        """Returns the dimension of this name of a term's tensor; a ShapeError if none has it."""
        for term in self.terms:
            for x in tensors_of(term):
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
    """Any {..., length, memory_length} or {..., memory_length}, whose memory other terms avoid."""

    bias: mtf.Tensor = dataclasses.field(metadata=DIFFERENTIATED)

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns the tensor, whatever its type."""
        return self.bias


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
