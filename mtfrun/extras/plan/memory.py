from __future__ import annotations

import collections
import dataclasses
import graphlib
from collections.abc import Iterable, Mapping

from mtfrun.extras.plan.program import FORWARDING, Block, Operation, Program, Value

# Operations whose results are the memory of their operands: of the first, or each of its operand.
_SAME_MEMORY = {*FORWARDING, "IdentityN"}
# Operations whose result takes the memory of an operand that nothing needs any more.
_IN_PLACE = {"AddV2", "Sub", "Mul", "Neg", "Exp", "Log", "Sqrt", "Rsqrt", "Square", "Relu"}
_IN_PLACE |= {"Maximum", "Minimum", "SelectV2", "RealDiv", "ReluGrad", "Softmax", "LogSoftmax"}
_IN_PLACE |= {"Tanh", "Sigmoid", "SquaredDifference", "DivNoNan", "Pow", "AddN", "Reciprocal"}
# A merged all-reduce writes its parts into a constant, which is copied at the first of them.
_IN_PLACE |= {"CollectiveReduceV2", "TensorStridedSliceUpdate"}
# Operations without new memory: a variable's, or none.
_WITHOUT_MEMORY = {"Const", "ReadVariableOp", "VarHandleOp"}


@dataclasses.dataclass(frozen=True)
class Peak:
    """The moment of a step at which a device needs most memory, and the operation that runs then.

    `num_bytes` excludes variables and constants; `by_operation` has the bytes by the operation that
    made them, the largest first.
    """

    num_bytes: int
    operation: str
    by_operation: Mapping[str, int]


def peak_of(program: Program) -> Peak:
    """Returns the peak of a program, in the order in which TensorFlow runs it.

    A tensor lives from the operation that makes it to the last one that reads it. A variable's new
    value, of the same size, lives until its assignment, when it replaces the old one.
    """
    return _peak(program.body)


def order_of_execution(block: Block) -> list[Operation]:
    """Returns the operations in the order in which their operands become complete.

    TensorFlow's executor takes the operation that has been ready for longest, so that more tensors
    of independent branches exist at once, such as gradients of queries, keys and values, than in
    the order of the program. The measured peak is nearer to this order's.
    """
    makers = {
        value: position
        for position, operation in enumerate(block.operations)
        for value in operation.results
    }
    sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
    for position, operation in enumerate(block.operations):
        sorter.add(position, *{makers[value] for value in operation.reads() if value in makers})
    return [block.operations[position] for position in sorter.static_order()]


def _peak(block: Block, outside: int = 0) -> Peak:
    """Returns the peak of a block, `outside` bytes that live around it included."""
    operations = order_of_execution(block)
    roots = _roots(operations)
    last_reads = {
        roots.get(value, value): position
        for position, operation in enumerate(operations)
        for value in operation.reads()
    }
    last_reads |= {roots.get(value, value): len(operations) for value in block.results}
    makers = dict.fromkeys(block.arguments, "loop")  # of the values that live
    total = outside + sum(value.num_bytes for value in makers)
    peak = Peak(outside, "", {})
    for position, operation in enumerate(operations):
        reads = {roots.get(value, value) for value in operation.reads()} & makers.keys()
        dying = {value for value in reads if last_reads[value] == position}
        results = operation.results
        types = [(x.sizes, x.dtype) for x in results] if operation.name in _IN_PLACE else []
        reused = [value for value in dying if (value.sizes, value.dtype) in types]
        # A loop takes over values that are not read after it; its values are counted inside.
        for value in dying if operation.regions else reused[:1]:
            del makers[value]
            total -= value.num_bytes
        for region in operation.regions:
            inner = _peak(region, total)
            if inner.num_bytes > peak.num_bytes:
                parts = _by_operation(makers, inner.by_operation)
                peak = Peak(inner.num_bytes, inner.operation, parts)
        if not _shares_memory(operation) and operation.name not in _WITHOUT_MEMORY:
            makers |= dict.fromkeys(results, operation.name)
            total += sum(value.num_bytes for value in results)
        copied = _transposed_bytes(operation)
        if total + copied > peak.num_bytes:
            parts = _by_operation(makers, {"Transpose": copied} if copied else {})
            peak = Peak(total + copied, operation.name, parts)
        unread = {value for value in results if last_reads.get(value, position) <= position}
        for value in (dying | unread) & makers.keys():
            del makers[value]
            total -= value.num_bytes
    return peak


def _by_operation(makers: Mapping[Value, str], others: Mapping[str, int]) -> dict[str, int]:
    by_operation = collections.Counter(others)
    for value, maker in makers.items():
        by_operation[maker] += value.num_bytes
    return dict(by_operation.most_common())


def _shares_memory(operation: Operation) -> bool:
    """Whether the results are the memory of the operands.

    TensorFlow's Transpose copies nothing if it moves dimensions of size 1 only, as its allocator
    shows: a batch of one row behind the blocks of its attention. Equal sizes may have changed
    places.
    """
    if operation.name != "Transpose":
        return operation.name in _SAME_MEMORY
    before, after = (
        [size for size in value.sizes if size > 1]
        for value in (operation.operands[0], operation.results[0])
    )
    return before == after and len({*before}) == len(before)


def _transposed_bytes(operation: Operation) -> int:
    """Returns the bytes of the copies that an einsum makes for its product of matrices.

    It multiplies {batch, free, contracted} of both operands, of which the last two may be in the
    other order, to {batch, free of the left, free of the right}.
    """
    equation = operation.equation
    if equation is None:
        return 0
    left, right, result = equation
    num_bytes, product = 0, [letter for letter in left if letter in right and letter in result]
    for letters, other, value in zip(
        (left, right), (right, left), operation.operands, strict=False
    ):
        batch = [letter for letter in letters if letter in other and letter in result]
        free = [letter for letter in letters if letter not in other]
        contracted = [letter for letter in letters if letter in other and letter not in result]
        if [*letters] not in ([*batch, *free, *contracted], [*batch, *contracted, *free]):
            num_bytes += value.num_bytes
        product += free
    if [*result] != product:
        num_bytes += operation.results[0].num_bytes
    return num_bytes


def _roots(operations: Iterable[Operation]) -> dict[Value, Value]:
    """Returns, for values without new memory, the value whose memory they have."""
    roots: dict[Value, Value] = {}
    for operation in operations:
        if _shares_memory(operation):
            for operand, result in zip(operation.operands, operation.results, strict=False):
                roots[result] = roots.get(operand, operand)
    return roots
