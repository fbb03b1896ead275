from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mtfrun.cli.command import (
    Command,
    add_json,
    at_least,
    check_mesh,
    require_gin_files,
    settings_of,
)
from mtfrun.display.streams import print_lines
from mtfrun.errors import ExitCode, InputError

if TYPE_CHECKING:
    from mtfrun.configuration.statements import Binding
    from mtfrun.experiment import Training
    from mtfrun.extras.audit.verify.observation import Observation

_DESCRIPTION = """\
Trains a few steps on meshes and on one device, and shows the largest differences.

  mtfrun audit verify --gin_file=runs/quickstart.gin --mesh=data:2,model:2 --mesh=data:4,model:1
  mtfrun audit verify --gin_file=runs/quickstart.gin --gin_file=layouts/2x2.gin
  mtfrun audit verify --gin_file=my.gin --mesh=data:2,model:2 --layout='batch:data;d_ff:model' \\
                                        --mesh=all:4 --layout='batch:all'

A mesh changes no number but for rounding. This checks it for a configuration, with your own
classes: initial values, losses, gradients, updates, metrics, logits and decodes. Every step starts
from the values of one device. If a difference is above --tolerance, the exit code is 5, and the
differences are listed in the order of the computation, behind the first layer whose output or
gradient differs, and the line of the operation at fault.

Without --mesh the mesh is the configuration's. Devices that the machine lacks are simulated on its
CPU, if it has no accelerator; --cpu simulates them in any case. With float32 differences are about
0.000001; with bfloat16 choose --tolerance=0.05, or use --gin.ACTIVATION_DTYPE="'float32'"."""


class MeshFlags(NamedTuple):
    """`layout` is None for the configuration's rules."""

    shape: str
    layout: str | None


class _Mesh(argparse.Action):
    """Adds a mesh to the flags, or a layout to the last mesh."""

    def __call__(
        self, parser: Any, flags: argparse.Namespace, value: Any, option: Any = ""
    ) -> None:
        if option == "--mesh":
            flags.meshes = [*flags.meshes, MeshFlags(value, None)]
        elif not flags.meshes or flags.meshes[-1].layout is not None:
            raise InputError(f"--layout={value} needs a --mesh before it")
        else:
            flags.meshes = [*flags.meshes[:-1], flags.meshes[-1]._replace(layout=value)]


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(meshes=[])
    add("--mesh", action=_Mesh, help="the axes of a mesh, data:2,model:2; repeatable", metavar="M")
    add("--layout", action=_Mesh, help="the layout of the --mesh before it", metavar="L")
    add("--steps", type=at_least(1), default=3, help="steps of training; 3 by default")
    text = "the largest relative difference of equal numbers; 0.0001 by default"
    add("--tolerance", type=at_least(0, float), default=1e-4, help=text)
    add("--decodes", type=at_least(0), default=4, help="rows to decode; 4 by default")
    text = "largest number of new tokens of a decode; 16 by default"
    add("--decode_length", type=at_least(1), default=16, help=text)
    add("--cpu", action="store_true", help="simulate all devices, though there are accelerators")
    add_json(parser, "print one JSON object for every mesh")


def _check(flags: argparse.Namespace) -> None:
    require_gin_files(flags)
    if flags.model_dir is not None:
        raise InputError("audit verify uses no run: give --gin.INIT_CHECKPOINT for --model_dir")
    for mesh in flags.meshes:
        check_mesh(mesh.shape, mesh.layout)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun import mtf
    from mtfrun.configuration import config
    from mtfrun.extras.audit.verify.comparison import as_json, as_lines, compare, reference_lines
    from mtfrun.extras.audit.verify.first_difference import find_fault

    bindings = settings_of(flags).parse()
    config.override(mtf.Mesh)  # gin knows the class from now on, if it did not
    shape = config.argument(mtf.Mesh, "shape", "data:1,model:1")
    layout = config.argument(mtf.Mesh, "layout", "")
    configured = MeshFlags(
        mtf.convert_to_shape(shape).to_string, mtf.convert_to_layout_rules(layout).to_string
    )
    meshes = [
        MeshFlags(mesh.shape, configured.layout if mesh.layout is None else mesh.layout)
        for mesh in flags.meshes or [configured]
    ]
    _set_up_devices(meshes, flags)
    axes = mtf.convert_to_shape(meshes[0].shape).dimension_names
    alone = MeshFlags(";".join(f"{axis}:1" for axis in axes), meshes[0].layout)
    expected = _observe(alone, flags, bindings)
    expected.require_finite()
    if not flags.json:
        print_lines(*reference_lines(expected))
    are_equal = True
    for mesh in meshes:
        here = _observe(mesh, flags, bindings, expected)
        comparison = compare(here, expected, flags.tolerance)
        are_equal &= not comparison.above
        fault = None
        if comparison.above:
            on_mesh, on_one = (_build(x, flags, bindings) for x in (mesh, alone))
            fault = find_fault(on_mesh, on_one, expected, comparison.above[0], flags.tolerance)
        if flags.json:
            print(json.dumps(as_json(here, comparison, fault), allow_nan=False), flush=True)
        else:
            print_lines("", *as_lines(here, comparison, fault))
    return 0 if are_equal else ExitCode.NOT_EQUAL


def _set_up_devices(meshes: Sequence[MeshFlags], flags: argparse.Namespace) -> None:
    from mtfrun import mtf
    from mtfrun.configuration import config

    largest = max(meshes, key=lambda mesh: mtf.convert_to_shape(mesh.shape).size)
    if mtf.convert_to_shape(largest.shape).size == 1:
        raise InputError(f"the mesh {largest.shape} is one device: add --mesh=data:2,model:2")
    if flags.cpu:
        mtf.Mesh(devices=["CPU:0"])  # hides accelerators
    _bind(largest, flags)
    config.build(mtf.Mesh)


def _bind(mesh: MeshFlags, flags: argparse.Namespace) -> None:
    from mtfrun import mtf
    from mtfrun.configuration import config

    size = mtf.convert_to_shape(mesh.shape).size
    devices = [f"CPU:{number}" for number in range(size)] if flags.cpu else None
    config.override(mtf.Mesh, shape=mesh.shape, layout=mesh.layout, devices=devices)


def _build(mesh: MeshFlags, flags: argparse.Namespace, bindings: Sequence[Binding]) -> Training:
    from mtfrun import mtf
    from mtfrun.experiment.runs.opening import build_training

    _bind(mesh, flags)
    training = build_training(bindings)
    if training.experiment.mesh.shape != mtf.convert_to_shape(mesh.shape):
        raise InputError("Experiment.mesh must be @mtf.Mesh(): audit verify sets its shape")
    return training


def _observe(
    mesh: MeshFlags,
    flags: argparse.Namespace,
    bindings: Sequence[Binding],
    expected: Observation | None = None,
) -> Observation:
    from mtfrun.extras.audit.verify.observation import FirstRows, observe

    training = _build(mesh, flags, bindings)
    experiment = training.experiment
    inputs = None
    if flags.decodes:
        settings = {"decode_length": flags.decode_length}
        inputs = FirstRows(experiment.data, experiment.seed, flags.decodes, settings)
    return observe(training, flags.steps, inputs, expected)


COMMANDS = [Command("audit verify", _DESCRIPTION, run, _add_flags, _check)]
