from __future__ import annotations

import collections
import dataclasses
import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.display import pictures
from mtfrun.experiment import Training
from mtfrun.experiment.printed_summary import (
    describe_batch,
    describe_model,
    unused_rules,
    variable_lines,
)
from mtfrun.extras.plan.plan import (
    AVERAGES,
    PARAMETERS,
    PROCESS_BYTES,
    SLOTS,
    Plan,
    group_collectives,
)
from mtfrun.mtf.placement.layout import SLOTS as SLOTS_RULE
from mtfrun.mtf.placement.layout import WEIGHTS

# Of the operations at the peak, and of the rules that would split replicated variables.
_MOST_NAMED = 4
_INDENT = 16


def describe(
    training: Training, plan: Plan, device_memory: int | None, bandwidths: Mapping[str, float]
) -> list[str]:
    """Returns lines; see `Plan.collective_seconds` for `bandwidths`."""
    lines = [*variable_lines(plan.mesh, training.state.model.named_variables()), ""]
    seconds = plan.collective_seconds(bandwidths).items()
    parts = [
        *_describe_training(training, plan),
        *(("memory", text) for text in _describe_memory(plan, device_memory)),
        *(("collectives", text) for text in _describe_collectives(plan)),
        *(
            ("seconds", f"{x:.6f} a step at least for the collectives over {axes}")
            for axes, x in seconds
        ),
        *(("replicated", str(x)) for x in find_replicated(plan)),
        *unused_rules(plan.mesh),
    ]
    for name, group in itertools.groupby(parts, lambda part: part[0]):
        for i, (_, text) in enumerate(group):
            lines.append(f"{'' if i else name:<{_INDENT}}{text}")
    return lines


def as_json(
    training: Training, plan: Plan, device_memory: int | None, bandwidths: Mapping[str, float]
) -> dict[str, Any]:
    """In bytes and seconds."""
    return {
        "mesh": {axis.name: axis.size for axis in plan.mesh.shape},
        "layout": dict(plan.mesh.layout),
        "batch_size": training.batch_size,
        "microbatches": training.options.microbatches,
        "memory": plan.memory | {"process": PROCESS_BYTES, "total": plan.peak_bytes},
        "device_memory": device_memory,
        "peak": dataclasses.asdict(plan.peak),
        "collectives": [
            dataclasses.asdict(group) for group in group_collectives(plan.collectives, plan.mesh)
        ],
        "seconds": plan.collective_seconds(bandwidths),
        "replicated": [dataclasses.asdict(x) for x in find_replicated(plan)],
        "unused_rules": plan.mesh.unused_rules(),
        "variables": [
            dataclasses.asdict(v) | {"shape": {dim.name: dim.size for dim in v.shape}}
            for v in plan.variables
        ],
    }


def _describe_training(training: Training, plan: Plan) -> Iterator[tuple[str, str]]:
    state, mesh = training.state, plan.mesh
    batch = describe_batch(training.experiment, state, training.options, training.batch_size)
    yield "mesh", f"{mesh.shape.to_string}: {mesh.size} device(s)"
    yield "layout", mesh.layout.to_string or "nothing is split"
    yield "model", describe_model(state)
    yield "batch", batch
    for kind in (PARAMETERS, SLOTS, AVERAGES):
        variables = [variable for variable in plan.variables if variable.kind == kind]
        total = sum(variable.total_bytes for variable in variables)
        local = sum(variable.device_bytes for variable in variables)
        if variables:
            sizes = f"{total:,} bytes, {local:,} on each device"
            yield kind, f"{sizes}, in {len(variables)} variables"


def _describe_memory(plan: Plan, memory: int | None) -> Iterator[str]:
    summands = (
        f"{plan.state_bytes:,} of variables, {plan.memory['constants']:,} of constants, "
        f"{plan.peak.num_bytes:,} of a step"
    )
    makers = list(plan.peak.by_operation.items())[:_MOST_NAMED]
    largest = ", ".join(f"{name} {num_bytes:,}" for name, num_bytes in makers)
    yield f"{plan.peak_bytes:,} bytes on each device: {summands}"
    yield f"the step's are largest in {plan.peak.operation}: {largest}"
    if memory is not None:
        difference = memory - plan.peak_bytes
        verdict = "are free" if difference >= 0 else "are missing: split or rematerialise more"
        yield f"of {memory:,} bytes of a device {abs(difference):,} {verdict}"


def _describe_collectives(plan: Plan) -> Iterator[str]:
    if plan.mesh.size == 1:
        yield "none: one device"
        return
    groups = group_collectives(plan.collectives, plan.mesh)
    count = sum(group.count for group in groups)
    yield f"{count} a step, by mesh axis and the dimensions that cause them"
    yield from map(str, groups)


@dataclasses.dataclass(frozen=True)
class Replicated:
    """Variables, of `device_bytes`, that all devices along a mesh axis hold whole.

    `rules`, which no shape of the model forbids, would split some of them, by the bytes that each
    saves on a device, the largest first; the reserved rules of `mtf.zero` are among them.
    """

    axis: str
    device_bytes: int
    rules: Mapping[str, int]

    def __str__(self) -> str:
        rules = ", ".join(
            f"{rule} saves {saved:,}" for rule, saved in [*self.rules.items()][:_MOST_NAMED]
        )
        return (
            f"over {self.axis}: {self.device_bytes:,} bytes of variables on each device; "
            f"{rules or 'no further rule fits the shapes of this model'}"
        )


def find_replicated(plan: Plan) -> list[Replicated]:
    """Returns, for every axis of several devices, the variables that it does not split."""
    found = []
    for axis in plan.mesh.shape:
        whole = [v for v in plan.variables if axis.name not in v.partition]
        num_bytes = sum(variable.device_bytes for variable in whole)
        if axis.size == 1 or not num_bytes:
            continue
        saved: collections.Counter[str] = collections.Counter()
        for variable in whole:
            pairs = zip(variable.shape, variable.partition, strict=True)
            whole_dims = [dim for dim, mesh_axis in pairs if mesh_axis is None]
            names = [dim.name for dim in whole_dims if _may_be_split(dim.name, axis, plan.mesh)]
            if any(dim.size % axis.size == 0 for dim in whole_dims):
                names += [WEIGHTS] if variable.kind == PARAMETERS else [WEIGHTS, SLOTS_RULE]
            for name in (name for name in names if name not in plan.mesh.layout):
                part = variable.device_bytes // axis.size
                saved[f"{name}:{axis.name}"] += variable.device_bytes - part
        found.append(Replicated(axis.name, num_bytes, dict(saved.most_common())))
    return found


def _may_be_split(name: str, axis: mtf.Dimension, mesh: mtf.Mesh) -> bool:
    return all(
        dim.size % axis.size == 0 and axis.name not in mesh.partition(shape)
        for shape in mesh.shapes_seen
        for dim in shape
        if dim.name == name
    )


_SVG_WIDTH = 800  # pixels


def picture(plan: Plan, device_memory: int | None, description: Sequence[str] | None = None) -> str:
    """Returns the mesh as SVG, or with a description as HTML.

    A full bar is --device_memory or, without it, the peak.
    """
    parts = plan.memory
    parts["step"] += parts.pop("constants")
    svg = pictures.mesh_devices(
        {axis.name: axis.size for axis in plan.mesh.shape},
        dict(plan.mesh.layout),
        title=f"{plan.mesh.shape.to_string}: {plan.peak_bytes:,} bytes on each of {plan.mesh.size}",
        bars=[pictures.DeviceBar(name, num_bytes) for name, num_bytes in parts.items()],
        full_bar=max(device_memory or 0, plan.peak_bytes, 1),
        lines=[
            f"{sent:,.0f} bytes sent a step over {axes}" for axes, sent in plan.sent_bytes.items()
        ],
        width=_SVG_WIDTH,
    ).svg()
    if description is None:
        return svg
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>plan</title></head>\n'
        f"<body>\n{svg[svg.index('<svg') :]}"
        f"<pre>{html.escape(chr(10).join(description))}</pre>\n</body></html>\n"
    )
