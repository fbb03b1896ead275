from __future__ import annotations

import collections
import dataclasses
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from mtfrun import mtf
from mtfrun.display import pictures
from mtfrun.experiment import Training
from mtfrun.experiment.printed_summary import unused_rules, variable_lines
from mtfrun.extras.plan.plan import (
    AVERAGES,
    PARAMETERS,
    PROCESS_BYTES,
    SLOTS,
    Plan,
    PlannedVariable,
    group_collectives,
)
from mtfrun.mtf.placement.layout import SLOTS as SLOTS_RULE
from mtfrun.mtf.placement.layout import WEIGHTS

# Of the operations at the peak, and of the rules that would split replicated variables.
_MOST_NAMED = 4
_INDENT = 16

Section: TypeAlias = tuple[str, Iterable[str]]


def describe(
    training: Training, plan: Plan, device_memory: int | None, bandwidths: Mapping[str, float]
) -> list[str]:
    """Returns lines; see `Plan.collective_seconds` for `bandwidths`."""
    mesh = training.experiment.mesh
    seconds = plan.collective_seconds(bandwidths).items()
    sections: list[Section] = [
        *_describe_run(training, plan),
        ("memory", _describe_memory(plan, device_memory)),
        ("collectives", _describe_collectives(plan)),
        (
            "seconds",
            [f"{x:.6f} a step at least for the collectives over {axes}" for axes, x in seconds],
        ),
        ("replicated", map(str, find_replicated(plan))),
        *((label, [text]) for label, text in unused_rules(mesh)),
    ]
    texts = [
        f"{'' if i else name:<{_INDENT}}{text}"
        for name, section in sections
        for i, text in enumerate(section)
    ]
    return [*variable_lines(mesh, training.state.model.named_variables()), "", *texts]


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


def _describe_run(training: Training, plan: Plan) -> list[Section]:
    state, mesh, options = training.state, training.experiment.mesh, training.options
    parameters, slots, averages = (
        [variable for variable in plan.variables if variable.kind == kind]
        for kind in (PARAMETERS, SLOTS, AVERAGES)
    )
    per_step, row = training.tokens_per_step, training.experiment.data.tokens_per_row
    unit = state.model.reporting.unit
    rows = f" rows of {row}: {per_step:,} {unit}" if row > 1 else f" {unit}"
    number = sum(variable.shape.size for variable in parameters)
    trainable = [v for v in state.model.named_variables().values() if v.trainable]
    frozen = len(trainable) - len(state.trainable)
    frozen_text = f", {frozen} of them frozen" * bool(frozen)
    batch = f"{training.batch_size}{rows} a step, in {options.microbatches} microbatch(es)"
    steps = options.train_steps
    return [
        ("mesh", [f"{mesh.shape.to_string}: {mesh.size} device(s)"]),
        ("layout", [mesh.layout.to_string or "nothing is split"]),
        (
            "parameters",
            [f"{number:,} in {len(parameters)} variables{frozen_text}", _sizes(parameters)],
        ),
        ("optimizer", [f"{type(state.optimizer).__name__}: {_sizes(slots)}"]),
        ("averages", [_sizes(averages)] if averages else []),
        ("batch", [batch]),
        ("steps", [f"{steps:,}: {steps * per_step:,} {unit}"]),
    ]


def _describe_memory(plan: Plan, memory: int | None) -> Iterator[str]:
    parts = {
        "variables": plan.state_bytes,
        "constants": plan.memory["constants"],
        "a step": plan.peak.num_bytes,
    }
    makers = list(plan.peak.by_operation.items())[:_MOST_NAMED]
    largest = ", ".join(f"{name} {num_bytes:,}" for name, num_bytes in makers)
    summands = ", ".join(f"{num_bytes:,} of {name}" for name, num_bytes in parts.items())
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


def _sizes(variables: Sequence[PlannedVariable]) -> str:
    total = sum(variable.total_bytes for variable in variables)
    local = sum(variable.device_bytes for variable in variables)
    return f"{total:,} bytes, {local:,} on each device"


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
            whole_dims = [
                dim
                for dim, of_axis in zip(variable.shape, variable.partition, strict=True)
                if of_axis is None
            ]
            names = [dim.name for dim in whole_dims if _may_be_split(dim.name, axis, plan.mesh)]
            if any(dim.size % axis.size == 0 for dim in whole_dims):
                rules = [WEIGHTS] if variable.kind == PARAMETERS else [WEIGHTS, SLOTS_RULE]
                names += [rule for rule in rules if rule not in plan.mesh.layout]
            for name in names:
                part = variable.device_bytes // axis.size
                saved[f"{name}:{axis.name}"] += variable.device_bytes - part
        found.append(Replicated(axis.name, num_bytes, dict(saved.most_common())))
    return found


def _may_be_split(name: str, axis: mtf.Dimension, mesh: mtf.Mesh) -> bool:
    if name in mesh.layout:
        return False
    return all(
        dim.size % axis.size == 0 and axis.name not in mesh.partition(shape)
        for shape in mesh.shapes_seen
        for dim in shape
        if dim.name == name
    )


_SVG_WIDTH = 800  # pixels


def picture_as_svg(plan: Plan, device_memory: int | None) -> str:
    """Returns the mesh as SVG. A full bar is --device_memory or, without it, the peak."""
    parts = plan.memory
    parts["step"] += parts.pop("constants")
    picture = pictures.mesh_devices(
        {axis.name: axis.size for axis in plan.mesh.shape},
        dict(plan.mesh.layout),
        title=f"{plan.mesh.shape.to_string}: {plan.peak_bytes:,} bytes on each of {plan.mesh.size}",
        bars=[pictures.DeviceBar(name, num_bytes) for name, num_bytes in parts.items()],
        full_bar=max(device_memory or 0, plan.peak_bytes, 1),
        lines=[
            f"{sent:,.0f} bytes sent a step over {axes}" for axes, sent in plan.sent_bytes.items()
        ],
        width=_SVG_WIDTH,
    )
    return picture.svg()


def picture_as_html(svg: str, description: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>plan</title></head>\n'
        f"<body>\n{svg[svg.index('<svg') :]}"
        f"<pre>{html.escape(chr(10).join(description))}</pre>\n</body></html>\n"
    )
