from __future__ import annotations

import collections
import contextlib
import dataclasses
import gc
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.experiment import Training
from mtfrun.extras.plan.dtensor_programs import layouts_of_relayout, specs, take_programs
from mtfrun.extras.plan.memory import Peak, peak_of
from mtfrun.extras.plan.program import Collective, Program

_RESULT_LAYOUT = re.compile(r'_layout = \["sharding_specs:(\S*) mesh')


@dataclasses.dataclass(frozen=True)
class CollectiveGroup:
    """The collectives of a step that have the same kind, axes and cause."""

    kind: str
    axes: tuple[str, ...]
    dimensions: tuple[str, ...]
    count: int
    device_bytes: int
    sent_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.count} {self.kind} over {','.join(self.axes)} ({', '.join(self.dimensions)}): "
            f"{self.device_bytes:,} bytes on each device"
        )


def group_collectives(
    needed: Iterable[tuple[Collective, int]], mesh: mtf.Mesh
) -> list[CollectiveGroup]:
    groups = collections.defaultdict(list)
    for collective, times in needed:
        cause = tuple(causing_dimensions(collective, mesh))
        groups[collective.kind, collective.axes, cause].append((collective, times))
    return [
        CollectiveGroup(
            *cause,
            count=sum(times for _, times in pairs),
            device_bytes=sum(times * x.device_bytes for x, times in pairs),
            sent_bytes=round(sum(times * x.sent_bytes for x, times in pairs)),
        )
        for cause, pairs in sorted(groups.items())
    ]


def causing_dimensions(collective: Collective, mesh: mtf.Mesh) -> list[str]:
    """Returns the names of the dimensions that may cause a needed collective.

    A program has sizes and no names: they are compared with the shapes that `mesh` has laid out.
    Where none matches, and for an all-reduce, whose result lacks the summed dimension, it is all
    dimensions that were laid out over its axes.
    """
    matching = [
        shape
        for shape in mesh.shapes_seen
        if collective.kind != "all-reduce"
        and tuple(shape.to_integer_list) == collective.sizes
        and collective.partition
        == tuple(
            axis if mesh.num_splits(dim) > 1 else None
            for dim, axis in zip(shape, mesh.partition(shape), strict=True)
        )
    ]
    dims = {dim for shape in matching or mesh.shapes_seen for dim in shape}
    return sorted({dim.name for dim in dims if mesh.axis_of(dim) in collective.axes})


def needed_collectives(program: Program) -> list[tuple[Collective, int]]:
    """Returns the collectives of a program that DTensor has not lowered yet, in their order.

    Each with its number in a step. DTensor's pass DTensorAllReduceScatterOptimization, repeated
    here, replaces an all-reduce whose only use is to split the sum over the same axes. It runs
    after the needed collectives are written, and on CPUs, which have no reduce-scatter, a later
    pass reverses it.
    """
    uses = collections.Counter(program.body.reads())
    scatters = {
        operation.operands[0]: operation
        for operation, _ in program.body.runs()
        if operation.name == "DTensorAllScatter" and uses[operation.operands[0]] == 1
    }
    needed = []
    for operation, times in program.collectives:
        (result,), collective = operation.results, operation.collective
        assert collective is not None
        kind, layouts = collective.kind, layouts_of_relayout(operation.attributes)
        scatter = scatters.get(result) if operation.name == "DTensorAllReduce" else None
        if scatter is not None:
            before, after = split = layouts_of_relayout(scatter.attributes) or ((), ())
            axes = {new for old, new in zip(before, after, strict=True) if new != old}
            if axes == {*collective.axes}:
                kind, (result,), layouts = "reduce-scatter", scatter.results, split
        if layouts is None:
            match = _RESULT_LAYOUT.search(operation.layouts)
            partition = specs(match[1]) if match else (None,) * len(result.sizes)
            layouts = (partition, partition)
        before, after = layouts
        sizes = tuple(
            size * (program.mesh[axis] if axis else 1)
            for size, axis in zip(result.sizes, after, strict=True)
        )
        # A reduce-scatter is caused by the dimension along which its result is split.
        partition = after if kind == "reduce-scatter" else before
        group = collective.axes, collective.group_size
        needed.append((Collective(kind, *group, result.num_bytes, sizes, partition), times))
    return needed


PARAMETERS, SLOTS, AVERAGES = "parameters", "slots", "averages"

# Other memory of a process on CPUs in its first step: code of operations, stacks of threads.
# Measured: 18 to 55 MB.
PROCESS_BYTES = 30_000_000


@dataclasses.dataclass(frozen=True)
class PlannedVariable:
    path: str
    kind: str
    shape: mtf.Shape
    partition: tuple[str | None, ...]
    total_bytes: int
    device_bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The needs of a training, for one step. Its devices need not exist.

    `variables` are of the model, the optimizer and the averages; `collectives` are the needed ones,
    each with its number, the `program`'s are those that CPUs run; `peak` excludes variables.
    """

    mesh: mtf.Mesh
    variables: tuple[PlannedVariable, ...]
    collectives: Sequence[tuple[Collective, int]]
    program: Program
    peak: Peak

    @property
    def memory(self) -> dict[str, int]:
        """The bytes of a device: variables by kind, constants, and all tensors at the peak."""
        kinds = (PARAMETERS, SLOTS, AVERAGES)
        return {
            **{
                kind: sum(v.device_bytes for v in self.variables if v.kind == kind)
                for kind in kinds
            },
            "constants": sum(value.num_bytes for value in self.program.constants),
            "step": self.peak.num_bytes,
        }

    @property
    def state_bytes(self) -> int:
        return sum(variable.device_bytes for variable in self.variables)

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())

    @property
    def sent_bytes(self) -> dict[str, float]:
        """The bytes that a device sends in a step, by axes such as "data,model"."""
        sent: dict[str, float] = collections.defaultdict(float)
        for collective, times in self.collectives:
            sent[",".join(collective.axes)] += times * collective.sent_bytes
        return dict(sorted(sent.items()))

    def collective_seconds(self, bandwidths: Mapping[str, float]) -> dict[str, float]:
        """Returns the least seconds of the collectives of a step, by axes.

        `bandwidths` are bytes a second that a device sends along each axis. A collective over
        several axes has the least; one over an axis without a bandwidth is left out.
        """
        return {
            axes: sent / min(bandwidths[axis] for axis in axes.split(","))
            for axes, sent in self.sent_bytes.items()
            if {*axes.split(",")} <= bandwidths.keys()
        }


def plan_training(training: Training, folder: str | pathlib.Path) -> Plan:
    """Compiles the step; LayoutError names all dimensions that mesh axes do not divide."""
    training.experiment.mesh.require_division()
    take_programs(folder)
    with _compile_quickly():
        training.compile_step()
    compiled = take_programs(folder)[-1]
    return Plan(
        mesh=training.experiment.mesh,
        variables=tuple(planned_variables(training)),
        collectives=needed_collectives(compiled.needed),
        program=compiled.running,
        peak=peak_of(compiled.running),
    )


@contextlib.contextmanager
def _compile_quickly() -> Iterator[None]:
    """Disables TensorFlow's graph optimizer and Python's garbage collector.

    The optimizer starts after DTensor has written the program, and took a tenth of the time of a
    plan; the garbage collector repeatedly scans millions of objects.
    """
    options = tf.config.optimizer.get_experimental_options()
    collects = gc.isenabled()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **options})


def planned_variables(training: Training) -> list[PlannedVariable]:
    state = training.state
    groups: Mapping[str, Mapping[str, mtf.Variable]] = {
        PARAMETERS: state.model.named_variables(),
        SLOTS: state.optimizer.named_slots(),
        AVERAGES: state.named_averages(),
    }
    return [
        PlannedVariable(
            path,
            kind,
            variable.shape,
            variable.mesh.partition(variable.stored_shape),
            variable.shape.size * variable.dtype.size,
            math.prod(variable.mesh.local_sizes(variable.stored_shape)) * variable.dtype.size,
        )
        for kind, variables in groups.items()
        for path, variable in variables.items()
    ]
