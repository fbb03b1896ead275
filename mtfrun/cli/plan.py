"""The command plan, and the description of `train --dry_run`."""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence

from mtfrun import mtf
from mtfrun.cli.search import calibrate_devices, search_layouts
from mtfrun.cli.terminable import terminable
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.experiment import Training
from mtfrun.experiment.runs.build import ROOTS, build
from mtfrun.rundir import atomic_open
from mtfrun.tools.planning import (
    Plan,
    Resources,
    as_json,
    describe,
    parse_bandwidths,
    parse_size,
    picture_as_html,
    picture_as_svg,
    picture_as_text,
    plan_training,
)

# The exit code if the memory of a device does not suffice.
TOO_LITTLE_MEMORY = 6


@terminable()
def plan(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Prints what a step needs on a mesh, whose devices need not exist."""
    if flags.calibrate:
        return calibrate_devices(flags)
    if flags.search:
        return search_layouts(flags)
    bindings = config.parse(
        flags.gin_file, flags.bindings, search_paths=flags.gin_search_paths, roots=ROOTS
    )
    with mtf.planned_meshes():
        _rebind_mesh(flags)
        experiment, evaluation = build()
        training = config.configured(Training, experiment, evaluation)
    check_taken(bindings, config.operative_config_text())
    resources = _resources(flags, experiment.mesh)
    planned = plan_training(training, flags.program_dump)
    if flags.json:
        print(json.dumps(as_json(training, planned, resources), allow_nan=False))
    else:
        print_lines(*describe(training, planned, resources))
    if flags.picture is not None:
        _draw(flags.picture, training, planned, resources)
    memory = resources.device_memory
    return TOO_LITTLE_MEMORY if memory is not None and planned.peak_bytes > memory else 0


def describe_dry_run(training: Training, program_dump: str) -> str:
    """Returns the description of a run on a planned mesh; of one device, without its step."""
    mesh = training.experiment.mesh
    mesh.require_division()
    if mesh.size == 1:
        lines = describe(training, None, Resources())
        return "\n".join([*lines, f"{'collectives':<16}none: one device"])
    planned = plan_training(training, program_dump)
    return "\n".join(describe(training, planned, Resources()))


def _rebind_mesh(flags: argparse.Namespace) -> None:
    """Gives the configuration's mesh the axes and the layout of the flags."""
    values = {"shape": flags.mesh, "layout": flags.layout}
    values = {name: value for name, value in values.items() if value is not None}
    if values:
        config.override(mtf.Mesh, **values)


def _resources(flags: argparse.Namespace, mesh: mtf.Mesh) -> Resources:
    memory = None if flags.device_memory is None else parse_size(flags.device_memory)
    bandwidths = {} if flags.bandwidth is None else parse_bandwidths(flags.bandwidth)
    unknown = set(bandwidths) - set(mesh.shape.dimension_names)
    if unknown:
        raise InputError(
            f"--bandwidth names {', '.join(sorted(unknown))}: the axes of the mesh are "
            f"{', '.join(mesh.shape.dimension_names)}"
        )
    return Resources(memory, bandwidths)


def _draw(path: str, training: Training, planned: Plan, resources: Resources) -> None:
    text = "\n".join(picture_as_text(planned, resources))
    if path == "-":
        print(f"\n{text}")
        return
    pictures = {
        ".txt": lambda: f"{text}\n",
        ".svg": lambda: picture_as_svg(planned, resources),
        ".html": lambda: picture_as_html(
            planned, resources, describe(training, planned, resources)
        ),
    }
    with atomic_open(path) as file:
        file.write(pictures[pathlib.Path(path).suffix]())
