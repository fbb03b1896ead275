"""The mesh on which a run goes on after the loss of processes (`mtfrun launch --elastic`)."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mtfrun.configuration.statements import macros_of, name_to_override, read_statements
from mtfrun.errors import InputError
from mtfrun.processes.child_process import last_error

# The dimensions of a batch that a mesh axis may split.
_OF_BATCHES = ("batch", "outer_batch")


class SmallerMesh(NamedTuple):
    """`name` is the parameter that sets the mesh's shape, such as "mtf.Mesh.shape"."""

    num_processes: int
    name: str
    shape: str

    @property
    def flag(self) -> str:
        return f"--gin.{self.name}={self.shape!r}"


def choose_smaller_mesh(
    flags: argparse.Namespace, command: Sequence[str], num_processes: int, remaining: int
) -> SmallerMesh:
    """Returns the largest mesh on which the remaining processes can run.

    Args:
      flags: the flags of the command.
      command: the program and its arguments, as of `num_processes`; tried with --dry_run.

    Raises:
      InputError: there is none; the reason is in the message.
    """
    name, sizes, layout = mesh_of(flags)
    axes = list(dict.fromkeys(layout[dim] for dim in _OF_BATCHES if layout.get(dim) in sizes))
    reason = "the layout does not split the batch over an axis of the mesh"
    if axes:
        reason = f"no axis of {' and '.join(map(repr, axes))} can be divided by the processes"
    for axis in axes:
        for number, shape in smaller_meshes(sizes, axis, num_processes, remaining):
            chosen = SmallerMesh(number, name, shape)
            process = subprocess.run(
                [*command, chosen.flag, "--dry_run"],
                # Simulated devices: this machine need not have the devices of all processes.
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
            )
            if not process.returncode:
                return chosen
            reason = last_error(process.stderr) or "no reason given"
    raise InputError(f"the run cannot go on with fewer processes: {reason}")


def mesh_of(flags: argparse.Namespace) -> tuple[str, dict[str, int], dict[str, str]]:
    """Returns the name that sets the mesh's shape, the sizes of its axes, and the layout.

    TensorFlow is not imported for it; shapes and layouts that are not texts are empty.
    """
    bindings = read_statements(flags.gin_file, flags.bindings, flags.gin_search_paths).bindings
    macros = macros_of(bindings)
    values = {x.name.removeprefix("mtf."): x.source(macros).value for x in bindings}
    name = name_to_override(bindings, "mtf.Mesh.shape")
    shape, layout = (str(values.get(f"Mesh.{x}", "")) for x in ("shape", "layout"))
    sizes = {axis: int(size) for axis, size in re.findall(r"(\w+):(\d+)", shape)}
    return name, sizes, dict(re.findall(r"(\w+):(\w+)", layout))


def smaller_meshes(
    sizes: Mapping[str, int], axis: str, num_processes: int, remaining: int
) -> Iterator[tuple[int, str]]:
    """Yields numbers of processes and meshes with as many devices each, the largest first.

    >>> list(smaller_meshes({"data": 4, "model": 2}, "data", 4, 2))
    [(2, 'data:2,model:2'), (1, 'data:1,model:2')]
    """
    for number in range(remaining, 0, -1):
        if sizes[axis] * number % num_processes == 0:
            smaller = {**sizes, axis: sizes[axis] * number // num_processes}
            yield number, ",".join(f"{name}:{size}" for name, size in smaller.items())
