from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator

from mtfrun.tools.planning.collective_bytes import Collective, NeededCollective
from mtfrun.tools.planning.dtensor_programs import layouts_of_relayout, specs
from mtfrun.tools.planning.program import Block, Operation, Program, Value

_RESULT_LAYOUT = re.compile(r'_layout = \["sharding_specs:(\S*) mesh')


def needed_collectives(program: Program) -> list[NeededCollective]:
    """Returns the collectives of a program that DTensor has not lowered yet, in their order."""
    return [
        _as_needed(operation, times, program)
        for operation, times in with_reduce_scatters(program).collectives
    ]


def _as_needed(operation: Operation, times: int, program: Program) -> NeededCollective:
    assert operation.collective is not None
    (result,) = operation.results
    layouts = layouts_of_relayout(operation.attributes)
    if layouts is None:
        match = _RESULT_LAYOUT.search(operation.layouts)
        partition = specs(match[1]) if match else (None,) * len(result.type.sizes)
        layouts = (partition, partition)
    before, after = layouts
    sizes = tuple(
        size * (program.mesh[axis] if axis else 1)
        for size, axis in zip(result.type.sizes, after, strict=True)
    )
    # A reduce-scatter is caused by the dimension along which its result is split.
    partition = after if operation.collective.kind == "reduce-scatter" else before
    return NeededCollective(operation.collective, sizes, partition, times)


def with_reduce_scatters(program: Program) -> Program:
    """Returns a program with reduce-scatters where DTensor inserts them.

    Its pass DTensorAllReduceScatterOptimization, repeated here, replaces an all-reduce whose only
    use is to split the sum over the same axes. It runs after the needed collectives are written,
    and on CPUs, which have no reduce-scatter, a later pass reverses it.
    """
    return dataclasses.replace(program, body=_block(program.body))


def _block(block: Block) -> Block:
    uses = collections.Counter(_uses(block))
    sums = {
        operation.results[0]: operation
        for operation in block.operations
        if operation.name == "DTensorAllReduce" and uses[operation.results[0]] == 1
    }
    fused: set[Value] = set()
    operations = []
    for operation in block.operations:
        regions = tuple(_block(region) for region in operation.regions)
        operation = dataclasses.replace(operation, regions=regions)
        if operation.name == "DTensorAllScatter" and operation.operands[0] in sums:
            all_reduce = sums[operation.operands[0]]
            collective = _reduce_scatter(all_reduce, operation)
            if collective is not None:
                fused.add(all_reduce.results[0])
                operation = dataclasses.replace(
                    operation,
                    name="DTensorReduceScatter",
                    operands=all_reduce.operands,
                    collective=collective,
                )
        operations.append(operation)
    remaining = (o for o in operations if not (o.results and o.results[0] in fused))
    return dataclasses.replace(block, operations=tuple(remaining))


def _reduce_scatter(all_reduce: Operation, scatter: Operation) -> Collective | None:
    """Returns None if the two are over different axes."""
    layouts = layouts_of_relayout(scatter.attributes)
    assert layouts is not None and all_reduce.collective is not None, scatter.attributes
    axes = {after for before, after in zip(*layouts, strict=True) if after != before}
    if axes != set(all_reduce.collective.axes):
        return None
    return dataclasses.replace(
        all_reduce.collective,
        kind="reduce-scatter",
        device_bytes=scatter.results[0].type.num_bytes,
    )


def _uses(block: Block) -> Iterator[Value]:
    yield from block.results
    for operation in block.operations:
        yield from operation.operands
        for region in operation.regions:
            yield from _uses(region)
