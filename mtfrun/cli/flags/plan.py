"""The flags of the command `plan`, and its help text."""

from __future__ import annotations

import argparse
import pathlib

from mtfrun.cli.errors import UsageError
from mtfrun.cli.flags.command import Command

_PICTURES = (".svg", ".html", ".txt")

_DESCRIPTION = """\
Says what a step of training needs on a mesh of any size, without its devices.

  mtfrun plan --gin_file=runs/quickstart.gin --mesh=data:128,model:8 --gin.BATCH_SIZE=1024
  mtfrun plan --gin_file=my.gin --device_memory=16GB --bandwidth=data:12GB/s,model:300GB/s
  mtfrun plan --gin_file=my.gin --json
  mtfrun plan --gin_file=my.gin --picture=mesh.svg

It compiles the step, on the CPU, and prints: every variable with its dimensions, the mesh axis of
each, sizes and bytes on a device; the memory of a device, which is that of variables and, at the
peak of the step, of all other tensors; the collectives (all-reduce, all-gather, ...) of a step, by
mesh axis and the dimensions that cause them; what is replicated although it could be split; layout
rules without effect. If mesh axes do not divide dimensions, all of these are named, with the
nearest sizes that fit.

--mesh and --layout replace those of the configuration. With --device_memory the exit code is 6 if a
device's memory does not suffice. --bandwidth, the bytes a second that a device sends along an axis,
gives the time that the collectives take at least; nothing is said of computation. --picture writes
the mesh and what its devices hold and send, as SVG, HTML or text; - prints it as text.

The peak is that of a CPU that runs operations in the order of the program; docs/planning.md
compares it with what was measured."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mesh", help="the axes of the mesh, data:128,model:8", metavar="M")
    add("--layout", help="the layout, 'batch:data;heads:model'", metavar="L")
    add("--device_memory", help="the memory of a device, such as 16GB", metavar="BYTES")
    add("--bandwidth", help="of each axis: data:12GB/s,model:300GB/s", metavar="B")
    add("--json", action="store_true", help="print one JSON object")
    add("--picture", help="a file (.svg, .html, .txt), or -", metavar="FILE")


def _check(flags: argparse.Namespace) -> None:
    if not flags.gin_file:
        raise UsageError("plan needs a configuration: --gin_file=runs/quickstart.gin")
    if flags.picture not in (None, "-") and pathlib.Path(flags.picture).suffix not in _PICTURES:
        raise UsageError(f"--picture={flags.picture}: name a file that ends in .svg, .html or .txt")
    if flags.picture == "-" and flags.json:
        raise UsageError("--json prints JSON alone: write --picture to a file")


PLAN = Command("plan", _DESCRIPTION, _add_flags, _check)
