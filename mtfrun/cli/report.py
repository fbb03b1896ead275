"""What `--dry_run` prints: variables, layouts, sizes; nothing is allocated for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from mtfrun import mtf
from mtfrun.cli.tasks import Training


def describe(training: Training) -> str:
    """Returns the report of a run that has not started."""
    state, mesh = training.state, training.experiment.mesh
    parameters = state.model.named_variables()
    slots = state.optimizer.named_slots()
    rows = [_row(path, variable) for path, variable in parameters.items()]
    heading = ("variable", "dimensions", "layout", "on each device", "bytes")
    options = training.options
    tokens, row = training.tokens_per_step, training.experiment.data.tokens_per_row
    frozen = len(parameters) - len(state.trainable)
    return "\n".join(
        [
            *_table([heading, *rows]),
            "",
            f"mesh            {mesh.shape.to_string}: {mesh.size} device(s)",
            f"layout          {mesh.layout.to_string or 'nothing is split'}",
            f"parameters      {_count(parameters):,} in {len(parameters)} variables"
            + f", {frozen} of them frozen" * bool(frozen),
            f"                {_sizes(parameters)}",
            f"optimizer       {type(state.optimizer).__name__}: {_sizes(slots)}",
            f"batch           {training.batch_size} rows of {row}: "
            f"{tokens:,} tokens a step, in {options.microbatches} microbatch(es)",
            f"steps           {options.train_steps:,}: {options.train_steps * tokens:,} tokens",
            *_rules_without_dimension(mesh),
        ]
    )


def misspelt_rules(mesh: mtf.Mesh) -> list[str]:
    """Returns a warning for every layout rule whose dimension the model lacks, but nearly has."""
    warnings = []
    for dimension in mesh.unused_rules():
        hint = mtf.did_you_mean(dimension, mesh.dimension_names_seen)
        if hint:
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


def _row(path: str, variable: mtf.Variable) -> tuple[str, ...]:
    local = _local_sizes(variable)
    axes = [axis or "-" for axis in variable.mesh.partition(variable.shape)]
    return (
        path,
        variable.shape.to_string or "scalar",
        ",".join(axes),
        "x".join(map(str, local)),
        f"{math.prod(local) * variable.dtype.size:,}",
    )


def _local_sizes(variable: mtf.Variable) -> list[int]:
    return [dim.size // variable.mesh.num_splits(dim) for dim in variable.shape]


def _sizes(variables: Mapping[str, mtf.Variable]) -> str:
    total = sum(v.shape.size * v.dtype.size for v in variables.values())
    local = sum(math.prod(_local_sizes(v)) * v.dtype.size for v in variables.values())
    return f"{total:,} bytes, {local:,} on each device"


def _count(variables: Mapping[str, mtf.Variable]) -> int:
    return sum(variable.shape.size for variable in variables.values())


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Returns lines of columns; the last one, of numbers, is aligned to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                *(cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)),
                row[-1].rjust(widths[-1]),
            ]
        )
        for row in rows
    ]
