"""What one device runs in a step of training: operations, tensors, loops, collectives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from mtfrun.tools.planning.collective_bytes import Collective

_BYTES = {"f64": 8, "i64": 8, "ui64": 8, "bf16": 2, "f16": 2, "i16": 2, "ui16": 2}
_BYTES |= {"i8": 1, "ui8": 1, "i1": 1, "resource": 0, "variant": 0, "string": 0}


@dataclasses.dataclass(frozen=True)
class TensorType:
    """The type of a tensor on one device.

    Attributes:
      sizes: of its dimensions, on the device.
      dtype: such as "f32", "bf16", "i32", "i1"; "resource" is the handle of a variable.
    """

    sizes: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * _BYTES.get(self.dtype, 4)


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor that a program computes.

    Attributes:
      number: different for every value of a program.
      type: its sizes and elements.
    """

    number: int
    type: TensorType


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation on one device.

    Attributes:
      name: of TensorFlow's operation, such as "Einsum".
      operands, results: its tensors.
      attributes: as text, such as 'equation = "ab,bc->ac"'.
      layouts: as text, what DTensor notes about its tensors.
      regions: of a loop its condition and its body, of a conditional its branches.
      trip_count: of a loop: how often its body runs. 1 where that depends on the values: a program
        runs one step of training.
      collective: what the devices exchange, if they do.
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
    def result_bytes(self) -> int:
        return sum(value.type.num_bytes for value in self.results)

    @property
    def operand_bytes(self) -> int:
        return sum(value.type.num_bytes for value in self.operands)


@dataclasses.dataclass(frozen=True)
class Block:
    """Operations in their order.

    Attributes:
      arguments: its parameters.
      operations: in an order in which they can run.
      results: values that it returns.
    """

    arguments: tuple[Value, ...]
    operations: tuple[Operation, ...]
    results: tuple[Value, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """The program of one device, for a step of training.

    Attributes:
      mesh: the size of each axis.
      body: its operations; the step is the body of its outermost loop.
      constants: the text of every constant.
    """

    mesh: Mapping[str, int]
    body: Block
    constants: Mapping[Value, str]

    def operations_of_step(self) -> Iterator[tuple[Operation, int]]:
        """Yields every operation, without loops themselves, and how often it runs in a step."""
        yield from _count_runs(self.body, 1)

    @property
    def collectives(self) -> list[tuple[Operation, int]]:
        """The operations that communicate, and how often each runs in a step."""
        return [
            (operation, times)
            for operation, times in self.operations_of_step()
            if operation.collective
        ]


def _count_runs(block: Block, times: int) -> Iterator[tuple[Operation, int]]:
    for operation in block.operations:
        if not operation.regions:
            yield operation, times
        for region in operation.regions:
            yield from _count_runs(region, times * operation.trip_count)
