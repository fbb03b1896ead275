from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from mtfrun.cli import command as cli
from mtfrun.display.streams import print_lines
from mtfrun.errors import ExitCode, InputError

_DESCRIPTION = """\
Says what a step of training needs on a mesh of any size, without its devices.

  mtfrun plan --gin_file=runs/quickstart.gin --mesh=data:128,model:8 --gin.BATCH_SIZE=1024
  mtfrun plan --gin_file=my.gin --device_memory=16GB --bandwidth=data:12GB/s,model:300GB/s
  mtfrun plan --gin_file=my.gin --picture=mesh.svg
  mtfrun plan --calibrate --devices=8 --profile=devices.json
  mtfrun plan --search --devices=8 --profile=devices.json --gin_file=my.gin

It compiles the step, on the CPU, and prints: every variable with its layout, sizes and bytes on a
device; the memory of a device; the collectives of a step, by mesh axis and the dimensions that
cause them; tensors that are replicated although they could be split; layout rules without effect;
dimensions that mesh axes do not divide, with the nearest sizes that fit.

With --device_memory the exit code is 6 if a device's memory does not suffice. --bandwidth, the
bytes a second that a device sends along an axis, gives the time that the collectives take at least.

--search plans meshes of --devices devices, with layouts over the dimensions of the model, split
slots and weights, rematerialisation and microbatches. It prints each plan as soon as it is ready
and, at the end or after Ctrl-C, the five with the shortest estimated steps, with lines for a gin
file. --profile says how fast the devices are: a file that --calibrate has measured on them, or
"a100" or "t4", from data sheets. docs/extras/plan.md compares the estimates with measurements."""


_PICTURES = (".svg", ".html")
_OF_SEARCH = ("devices", "profile", "candidates")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mesh", help="the axes of the mesh, data:128,model:8", metavar="M")
    add("--layout", type=str, help="the layout, 'batch:data;heads:model'", metavar="L")
    add("--device_memory", help="the memory of a device, such as 16GB", metavar="BYTES")
    add("--bandwidth", help="of each axis: data:12GB/s,model:300GB/s", metavar="B")
    cli.add_json(parser, "print one JSON object")
    add("--picture", help="a file (.svg, .html)", path="new file")
    add("--calibrate", action="store_true", help="measure this machine's devices: --profile")
    add("--search", action="store_true", help="find the fastest mesh and layout for --devices")
    add("--devices", type=int, help="the number of devices of --calibrate or --search")
    add("--profile", help="how fast devices are: a file, a100 or t4", metavar="FILE")
    add("--candidates", type=cli.at_least(1), help="of --search: at most so many (40)")


def _check(flags: argparse.Namespace) -> None:
    if flags.calibrate or flags.search:
        _check_search(flags)
    elif other := [name for name in _OF_SEARCH if getattr(flags, name) is not None]:
        raise InputError(f"--{other[0]} is for plan --search or --calibrate: add one of these")
    if not flags.calibrate:
        cli.require_gin_files(flags)
    if flags.picture is not None and pathlib.Path(flags.picture).suffix not in _PICTURES:
        raise InputError(f"--picture={flags.picture}: name a file that ends in .svg or .html")
    cli.check_mesh(flags.mesh, flags.layout)


def _check_search(flags: argparse.Namespace) -> None:
    if flags.calibrate and flags.search:
        raise InputError("--calibrate measures what --search needs: run them one after the other")
    word = "--calibrate" if flags.calibrate else "--search"
    if flags.devices is None or flags.devices < 2:
        raise InputError(f"plan {word} needs a number of devices, 2 or more: --devices=8")
    if flags.profile is None:
        raise InputError(f"plan {word} needs a file for the devices: --profile=devices.json")
    for name in ("mesh", "layout", "bandwidth", "picture"):
        if getattr(flags, name) is not None:
            raise InputError(f"--{name} describes one mesh: leave it out with {word}")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun import mtf
    from mtfrun.configuration import config
    from mtfrun.display.formats import parse_size
    from mtfrun.experiment.runs.opening import Settings, build_training
    from mtfrun.extras.plan.description import as_json, describe, picture
    from mtfrun.extras.plan.plan import plan_training
    from mtfrun.extras.plan.profile import parse_bandwidths
    from mtfrun.extras.plan.search.search import calibrate_devices, search_layouts
    from mtfrun.files import atomic_open

    if flags.calibrate:
        return calibrate_devices(flags)
    if flags.search:
        return search_layouts(flags)
    bindings = Settings.of_flags(flags).parse()
    mesh = {"shape": flags.mesh, "layout": flags.layout}
    with mtf.planned_meshes():
        config.override(mtf.Mesh, **{k: v for k, v in mesh.items() if v is not None})
        training = build_training(bindings)
    memory = None if flags.device_memory is None else parse_size(flags.device_memory)
    axes = training.experiment.mesh.shape.dimension_names
    bandwidths = {} if flags.bandwidth is None else parse_bandwidths(flags.bandwidth, axes)
    planned = plan_training(training, flags.program_dump)
    lines = describe(training, planned, memory, bandwidths)
    if flags.json:
        print(json.dumps(as_json(training, planned, memory, bandwidths), allow_nan=False))
    else:
        print_lines(*lines)
    if flags.picture is not None:
        is_page = flags.picture.endswith(".html")
        with atomic_open(flags.picture) as file:
            file.write(picture(planned, memory, lines if is_page else None))
    return ExitCode.TOO_LITTLE_MEMORY if memory is not None and planned.peak_bytes > memory else 0


@contextlib.contextmanager
def _dumping_programs(flags: argparse.Namespace) -> Iterator[None]:
    from mtfrun.extras.plan.dtensor_programs import dump_environment

    former = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="mtfrun_programs_") as folder:
        os.environ.update(dump_environment(folder))
        try:
            flags.program_dump = folder
            yield
        finally:
            os.environ.clear()
            os.environ.update(former)


COMMANDS = [cli.Command("plan", _DESCRIPTION, run, _add_flags, _check, around=_dumping_programs)]
