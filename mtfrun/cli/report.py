"""The report of `--dry_run`: variables, layouts, sizes, and the collectives of a step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.errors import did_you_mean
from mtfrun.experiment import Training
from mtfrun.mtf.collectives import describe_collectives, read_dump

# Dimensions of some models only: a layout that several models share may have rules for them.
_OF_SOME_MODELS = {"outer_batch", "experts", "expert_x", "expert_y", "expert_hidden"}


def describe(training: Training, program_dump: str) -> str:
    """Returns the report of a run that has not started.

    Args:
      training: the run. On several devices its variables are created, if there is enough memory,
        and its step is compiled.
      program_dump: the folder to which TensorFlow writes programs, see program_dump.py.
    """
    state, mesh = training.state, training.experiment.mesh
    parameters = state.model.named_variables()
    slots = state.optimizer.named_slots()
    options = training.options
    per_step, row = training.tokens_per_step, training.experiment.data.tokens_per_row
    unit = state.model.reporting.unit
    of_row = f" rows of {row}: {per_step:,} {unit}" if row > 1 else f" {unit}"
    frozen = sum(v.trainable for v in parameters.values()) - len(state.trainable)
    return "\n".join(
        [
            mesh.report(parameters),
            "",
            f"mesh            {mesh.shape.to_string}: {mesh.size} device(s)",
            f"layout          {mesh.layout.to_string or 'nothing is split'}",
            f"parameters      {_count(parameters):,} in {len(parameters)} variables"
            + f", {frozen} of them frozen" * bool(frozen),
            f"                {_sizes(parameters)}",
            f"optimizer       {type(state.optimizer).__name__}: {_sizes(slots)}",
            *_averages(state.named_averages()),
            f"batch           {training.batch_size}{of_row} a step, "
            f"in {options.microbatches} microbatch(es)",
            f"steps           {options.train_steps:,}: {options.train_steps * per_step:,} {unit}",
            *_collectives(training, program_dump),
            *_rules_without_dimension(mesh),
        ]
    )


def _collectives(training: Training, program_dump: str) -> list[str]:
    """Returns lines on the collectives of a step, which is compiled to list them."""
    state, mesh = training.state, training.experiment.mesh
    if not mesh.is_distributed:
        return ["collectives     none: one device"]
    needed = mesh.size * sum(map(_local_bytes, state.named_variables().values()))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        return [
            f"collectives     not counted: the variables need {needed:,} bytes, {free:,} are free; "
            "count those of a smaller model"
        ]
    training.compile_step()
    (program,) = read_dump(program_dump)
    heading = f"{len(program)} a step, by mesh axis and the dimensions that cause them"
    if training.options.microbatches > 1:
        heading += "; those of a microbatch are counted once"
    lines = [heading, *describe_collectives(program, mesh)]
    return [f"{'' if i else 'collectives':<16}{line}" for i, line in enumerate(lines)]


def misspelt_rules(mesh: mtf.Mesh) -> list[str]:
    """Returns a warning for every layout rule whose dimension is probably misspelt."""
    warnings = []
    for dimension in mesh.unused_rules():
        hint = did_you_mean(dimension, mesh.dimension_names_seen)
        if hint and dimension not in _OF_SOME_MODELS:
            warnings.append(
                f"layout rule {dimension}:{mesh.layout[dimension]} names no dimension of this "
                f"model{hint}"
            )
    return warnings


def _rules_without_dimension(mesh: mtf.Mesh) -> list[str]:
    unused = mesh.unused_rules()
    if not unused:
        return []
    rules = ", ".join(f"{dimension}:{mesh.layout[dimension]}" for dimension in unused)
    lines = [f"rules unused    {rules}: no parameter and no batch has such a dimension"]
    return lines + [f"warning         {warning}" for warning in misspelt_rules(mesh)]


def _sizes(variables: Mapping[str, mtf.Variable]) -> str:
    total = sum(v.shape.size * v.dtype.size for v in variables.values())
    local = sum(map(_local_bytes, variables.values()))
    return f"{total:,} bytes, {local:,} on each device"


def _local_bytes(variable: mtf.Variable) -> int:
    return math.prod(variable.mesh.local_sizes(variable.stored_shape)) * int(variable.dtype.size)


def _averages(averages: Mapping[str, mtf.Variable]) -> list[str]:
    return [f"averages        {_sizes(averages)}"] if averages else []


def _count(variables: Mapping[str, mtf.Variable]) -> int:
    return sum(variable.shape.size for variable in variables.values())
