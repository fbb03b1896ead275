"""The command verify."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.cli.flags.verify import MeshFlags
from mtfrun.cli.terminable import terminable
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.configuration.statements import Binding
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.experiment import Training
from mtfrun.experiment.runs.build import ROOTS, build
from mtfrun.tools.verification import (
    FirstRows,
    Observation,
    as_json,
    as_lines,
    compare,
    observe,
    reference_lines,
)

# The exit code if numbers on a mesh are not those of one device.
NOT_EQUAL = 5


@terminable()
def verify(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Prints the differences between every mesh of the flags and one device."""
    bindings = config.parse(
        flags.gin_file, flags.bindings, search_paths=flags.gin_search_paths, roots=ROOTS
    )
    configured = MeshFlags(
        mtf.convert_to_shape(_argument("shape", "data:1,model:1")).to_string,
        mtf.convert_to_layout_rules(_argument("layout", "")).to_string,
    )
    meshes = [
        MeshFlags(mesh.shape, configured.layout if mesh.layout is None else mesh.layout)
        for mesh in flags.meshes or [configured]
    ]
    _set_up_devices(meshes, flags)
    axes = mtf.convert_to_shape(meshes[0].shape)
    alone = MeshFlags(";".join(f"{axis.name}:1" for axis in axes), meshes[0].layout)
    expected = _observe(alone, flags, bindings)
    expected.require_finite()
    if not flags.json:
        print_lines(*reference_lines(expected))
    are_equal = True
    for mesh in meshes:
        here = _observe(mesh, flags, bindings, expected)
        comparison = compare(here, expected, flags.tolerance)
        are_equal &= not comparison.above
        if flags.json:
            print(json.dumps(as_json(here, comparison), allow_nan=False), flush=True)
        else:
            print_lines("", *as_lines(here, comparison))
    return 0 if are_equal else NOT_EQUAL


def _argument(name: str, default: str) -> Any:
    """Returns what the configuration gives to its mesh."""
    config.override(mtf.Mesh)  # gin knows the class from now on, if it did not
    return config.argument(mtf.Mesh, name, default)


def _set_up_devices(meshes: Sequence[MeshFlags], flags: argparse.Namespace) -> None:
    """Sets up TensorFlow for the largest mesh, which is possible only before it starts.

    Raises:
      InputError: all meshes are of one device.
    """
    largest = max(meshes, key=lambda mesh: mtf.convert_to_shape(mesh.shape).size)
    if mtf.convert_to_shape(largest.shape).size == 1:
        raise InputError(
            f"the mesh {largest.shape} is one device: name one to compare with it, "
            "--mesh=data:2,model:2"
        )
    if flags.cpu:
        mtf.Mesh(devices=["CPU:0"])  # hides accelerators
    _bind(largest, flags)
    config.configured(mtf.Mesh)


def _bind(mesh: MeshFlags, flags: argparse.Namespace) -> None:
    """Makes a mesh the configuration's."""
    config.override(mtf.Mesh, shape=mesh.shape, layout=mesh.layout, devices=_devices(mesh, flags))


def _devices(mesh: MeshFlags, flags: argparse.Namespace) -> list[str] | None:
    if not flags.cpu:
        return None
    return [f"CPU:{number}" for number in range(mtf.convert_to_shape(mesh.shape).size)]


def _observe(
    mesh: MeshFlags,
    flags: argparse.Namespace,
    bindings: Sequence[Binding],
    expected: Observation | None = None,
) -> Observation:
    """Returns the observation on a mesh; `expected` is the observation on one device."""
    _bind(mesh, flags)
    experiment, evaluation = build()
    if experiment.mesh.shape != mtf.convert_to_shape(mesh.shape):
        raise InputError("Experiment.mesh must be @mtf.Mesh(), whose shape verify sets")
    training = config.configured(Training, experiment, evaluation)
    check_taken(bindings, config.operative_config_text())
    inputs = None
    if flags.decodes:
        settings = {"decode_length": flags.decode_length}
        inputs = FirstRows(experiment.data, experiment.seed, flags.decodes, settings)
    return observe(training, flags.steps, inputs, expected)
