"""The flags of the command `verify`, and its help text."""

from __future__ import annotations

import argparse
import math
from typing import Any, NamedTuple

from mtfrun.cli.flags.command import Command
from mtfrun.cli.flags.shared import check_mesh
from mtfrun.errors import InputError

_DESCRIPTION = """\
Trains a few steps on meshes and on one device, and shows the largest differences.

  mtfrun verify --gin_file=runs/quickstart.gin --mesh=data:2,model:2 --mesh=data:4,model:1
  mtfrun verify --gin_file=runs/quickstart.gin --gin_file=layouts/2x2.gin
  mtfrun verify --gin_file=my.gin --mesh=data:2,model:2 --layout='batch:data;d_ff:model' \\
                                  --mesh=all:4 --layout='batch:all'

A mesh changes no number but for rounding. This checks it for a configuration, and for models,
layers and optimizers of your own: the initial values; the loss and the gradients of every step; the
optimizer's updates from equal gradients; metrics and logits of an evaluation before training and
after the last step, and the decodes after it. Every step starts from the values of one device, so
that a difference shows the step that causes it. If one is above --tolerance, the exit code is 5,
and the variables are listed in the order in which they are computed.

Without --mesh the mesh is the configuration's. --layout belongs to the --mesh before it, by default
it is the configuration's. Devices that the machine lacks are simulated on its CPU, if it has no
accelerator; --cpu simulates them in any case. Nothing is written, and no checkpoint is read but
that of --gin.INIT_CHECKPOINT.

Differences are relative to the largest entry of a variable's gradient, or to an entry of an update.
With float32 they are about 0.000001; with bfloat16 choose --tolerance=0.05, or verify with
--gin.ACTIVATION_DTYPE="'float32'"."""


class MeshFlags(NamedTuple):
    """A mesh to verify.

    Attributes:
      shape: its axes.
      layout: its rules; None for those of the configuration.
    """

    shape: str
    layout: str | None


class _Mesh(argparse.Action):
    """Appends a mesh, without a layout."""

    def __call__(
        self, parser: Any, flags: argparse.Namespace, value: Any, option: Any = ""
    ) -> None:
        flags.meshes = [*flags.meshes, MeshFlags(value, None)]


class _Layout(argparse.Action):
    """Gives the last mesh its layout."""

    def __call__(
        self, parser: Any, flags: argparse.Namespace, value: Any, option: Any = ""
    ) -> None:
        if not flags.meshes or flags.meshes[-1].layout is not None:
            raise InputError(f"--layout={value} needs a --mesh of its own before it")
        flags.meshes = [*flags.meshes[:-1], flags.meshes[-1]._replace(layout=value)]


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(meshes=[])
    add("--mesh", action=_Mesh, help="the axes of a mesh, data:2,model:2; repeatable", metavar="M")
    add("--layout", action=_Layout, help="the layout of the --mesh before it", metavar="L")
    add("--steps", type=int, default=3, help="steps of training; 3 by default", metavar="N")
    add(
        "--tolerance",
        type=float,
        default=1e-4,
        help="the largest relative difference of equal numbers; 0.0001 by default",
        metavar="T",
    )
    add("--decodes", type=int, default=4, help="rows to decode; 4 by default", metavar="N")
    add(
        "--decode_length",
        type=int,
        default=16,
        help="largest number of new tokens of a decode; 16 by default",
        metavar="N",
    )
    add("--cpu", action="store_true", help="simulate all devices, though there are accelerators")
    add("--json", action="store_true", help="print one JSON object for every mesh")


def _check(flags: argparse.Namespace) -> None:
    if not flags.gin_file:
        raise InputError("verify needs a configuration: --gin_file=runs/quickstart.gin")
    if flags.model_dir is not None:
        raise InputError(
            "verify uses no run: leave --model_dir out; to begin with the values of a checkpoint, "
            "set --gin.INIT_CHECKPOINT"
        )
    if flags.steps < 1 or flags.decodes < 0 or flags.decode_length < 1:
        raise InputError("--steps and --decode_length must be at least 1, --decodes at least 0")
    for mesh in flags.meshes:
        check_mesh(mesh.shape, mesh.layout)
    if not 0 <= flags.tolerance < math.inf:
        raise InputError(f"--tolerance={flags.tolerance} must be a number of at least 0")


VERIFY = Command("verify", _DESCRIPTION, _add_flags, _check, "mtfrun.cli.verify:verify")
