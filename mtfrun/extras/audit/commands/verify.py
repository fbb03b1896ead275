from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mtfrun.cli import command as cli
from mtfrun.errors import ExitCode, InputError

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


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(meshes=[])
    in_order: dict[str, Any] = {"action": "append", "dest": "meshes"}
    text = "the axes of a mesh, data:2,model:2; repeatable"
    add("--mesh", type=lambda text: (text, None), help=text, metavar="M", **in_order)
    text = "the layout of the --mesh before it"
    add("--layout", type=lambda text: (None, text), help=text, metavar="L", **in_order)
    add("--steps", type=cli.at_least(1), default=3, help="steps of training; 3 by default")
    text = "the largest relative difference of equal numbers; 0.0001 by default"
    add("--tolerance", type=cli.at_least(0, float), default=1e-4, help=text)
    add("--decodes", type=cli.at_least(0), default=4, help="rows to decode; 4 by default")
    text = "largest number of new tokens of a decode; 16 by default"
    add("--decode_length", type=cli.at_least(1), default=16, help=text)
    add("--cpu", action="store_true", help="simulate all devices, though there are accelerators")
    cli.add_json(parser, "print one JSON object for every mesh")


def _check(flags: argparse.Namespace) -> None:
    cli.require_gin_files(flags)
    if flags.model_dir is not None:
        raise InputError("audit verify uses no run: give --gin.INIT_CHECKPOINT for --model_dir")
    meshes: list[tuple[str, str | None]] = []
    for mesh, layout in flags.meshes:
        if mesh is not None:
            meshes.append((mesh, None))
        elif meshes and meshes[-1][1] is None:
            meshes[-1] = (meshes[-1][0], layout)
        else:
            raise InputError(f"--layout={layout} needs a --mesh before it")
        cli.check_mesh(*meshes[-1])
    flags.meshes = meshes


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.extras.audit.verify.verification import verify

    return 0 if verify(flags) else ExitCode.NOT_EQUAL


COMMANDS = [cli.Command("audit verify", _DESCRIPTION, run, _add_flags, _check)]
