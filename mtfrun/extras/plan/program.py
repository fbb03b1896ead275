"""The program of one device for a training step: operations, tensors, loops, collectives."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_EQUATION = re.compile(r'equation = "([a-zA-Z]*),([a-zA-Z]*)->([a-zA-Z]*)"')
_BYTES = {"f64": 8, "i64": 8, "ui64": 8, "bf16": 2, "f16": 2, "i16": 2, "ui16": 2}
_BYTES |= {"i8": 1, "ui8": 1, "i1": 1, "resource": 0, "variant": 0, "string": 0}
# Operations that return their operand, with another shape at most.
FORWARDING = {"Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient"}


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor on one device; `dtype` is "f32", "bf16", ..., "resource" for a variable's handle."""

    number: int
    sizes: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * _BYTES.get(self.dtype, 4)


@dataclasses.dataclass(frozen=True)
class Collective:
    """`group_size` devices along `axes` each get a result of `device_bytes`.

    Of a needed collective, `sizes` are global, of the result, and `partition` has the mesh axis, or
    None, of every dimension of the operand (for an all-reduce and a reduce-scatter: of the result).
    """

    kind: str
    axes: tuple[str, ...]
    group_size: int
    device_bytes: int
    sizes: tuple[int, ...] = ()
    partition: tuple[str | None, ...] = ()

    @property
    def sent_bytes(self) -> float:
        """The bytes that a device sends, with the algorithms that send the least.

        Of n devices, each sends (n - 1) / n of what an all-gather or an all-to-all returns, and
        twice that for an all-reduce, a reduce-scatter and an all-gather (Thakur et al.,
        "Optimization of Collective Communication Operations in MPICH", 2005). A reduce-scatter
        begins with n times its result.
        """
        factor = {"all-reduce": 2.0, "reduce-scatter": float(self.group_size)}.get(self.kind, 1.0)
        return factor * self.device_bytes * (self.group_size - 1) / self.group_size


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of TensorFlow, such as "Einsum", on one device.

    `attributes` and `layouts` (DTensor's notes) are texts, such as 'equation = "ab,bc->ac"'.
    `regions` are a loop's condition and body, or a conditional's branches. A loop runs its body
    `trip_count` times, 1 where that depends on values: a program runs one step of training.
    """

    name: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    attributes: str = ""
    layouts: str = ""
    regions: tuple[Block, ...] = ()
    trip_count: int = 1
    collective: Collective | None = None

    @property
    def equation(self) -> tuple[str, str, str] | None:
        """The letters of an einsum's two operands and of its result."""
        match = _EQUATION.search(self.attributes)
        return (match[1], match[2], match[3]) if match else None

    def reads(self) -> Iterator[Value]:
        """Yields the values that it reads, in its regions too, and the results of these."""
        yield from self.operands
        for region in self.regions:
            yield from region.reads()


@dataclasses.dataclass(frozen=True)
class Block:
    """Operations in an order in which they can run."""

    arguments: tuple[Value, ...]
    operations: tuple[Operation, ...]
    results: tuple[Value, ...]

    def reads(self) -> Iterator[Value]:
        for operation in self.operations:
            yield from operation.reads()
        yield from self.results

    def runs(self, times: int = 1) -> Iterator[tuple[Operation, int]]:
        """Yields all operations but loops, and how often each runs in the outermost loop."""
        for operation in self.operations:
            if not operation.regions:
                yield operation, times
            for region in operation.regions:
                yield from region.runs(times * operation.trip_count)


@dataclasses.dataclass(frozen=True)
class Program:
    mesh: Mapping[str, int]
    body: Block
    constants: Mapping[Value, str]

    @property
    def collectives(self) -> list[tuple[Operation, int]]:
        """The operations that communicate, and how often each runs in a step."""
        return [pair for pair in self.body.runs() if pair[0].collective]
