from __future__ import annotations

import collections
import contextlib
import dataclasses
import gc
import math
import pathlib
from collections.abc import Iterator, Mapping

import tensorflow as tf

from mtfrun import mtf
from mtfrun.experiment import Training
from mtfrun.extras.plan.collectives import NeededCollective, needed_collectives
from mtfrun.extras.plan.dtensor_programs import take_programs
from mtfrun.extras.plan.memory import Peak, peak_of
from mtfrun.extras.plan.program import Program

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

    `variables` are of the model, the optimizer and the averages; `collectives`, needed ones, have
    the dimensions that cause them, the `program`'s are those that CPUs run; `peak` excludes
    variables.
    """

    mesh: mtf.Mesh
    variables: tuple[PlannedVariable, ...]
    collectives: tuple[NeededCollective, ...]
    program: Program
    peak: Peak

    def device_bytes(self, kind: str) -> int:
        return sum(v.device_bytes for v in self.variables if v.kind == kind)

    @property
    def state_bytes(self) -> int:
        return sum(variable.device_bytes for variable in self.variables)

    @property
    def peak_bytes(self) -> int:
        """The bytes that a device needs: variables, constants, and all tensors at the peak."""
        return self.state_bytes + self.constant_bytes + self.peak.num_bytes

    @property
    def constant_bytes(self) -> int:
        return sum(value.type.num_bytes for value in self.program.constants)

    @property
    def sent_bytes(self) -> dict[str, float]:
        """The bytes that a device sends in a step, by axes such as "data,model"."""
        sent: dict[str, float] = collections.defaultdict(float)
        for item in self.collectives:
            sent[",".join(item.axes)] += item.times * item.collective.sent_bytes
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
        collectives=tuple(needed_collectives(compiled.needed)),
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
