from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mtfrun.errors import InputError

FITTING = "mtfrun.tools.launch.fitting"
"""The program that builds a configuration on smaller meshes; it imports TensorFlow."""


@dataclasses.dataclass(frozen=True)
class SmallerMesh:
    """A run with fewer processes; `name` is the macro or parameter that sets its mesh."""

    num_processes: int
    mesh: str
    name: str = "Mesh.shape"

    @property
    def flag(self) -> str:
        return f"--gin.{self.name}={self.mesh!r}"

    @property
    def binding(self) -> str:
        return f"{self.name} = {self.mesh!r}"


class GinSettings(NamedTuple):
    """`bindings` are pairs of a flag and its gin binding."""

    files: Sequence[str] = ()
    bindings: Sequence[tuple[str, str]] = ()
    search_paths: Sequence[str] = ()

    def with_binding(self, flag: str, binding: str) -> GinSettings:
        return self._replace(bindings=[*self.bindings, (flag, binding)])


def smaller_meshes(
    sizes: Mapping[str, int], axis: str, num_processes: int, remaining: int
) -> Iterator[SmallerMesh]:
    """Yields the meshes of fewer processes with as many devices each, the largest first.

    >>> [m.mesh for m in smaller_meshes({"data": 4, "model": 2}, "data", 4, 2)]
    ['data:2,model:2', 'data:1,model:2']
    """
    for number in range(remaining, 0, -1):
        if sizes[axis] * number % num_processes == 0:
            smaller = {**sizes, axis: sizes[axis] * number // num_processes}
            mesh = ",".join(f"{name}:{size}" for name, size in smaller.items())
            yield SmallerMesh(number, mesh)


def largest_that_fits(
    python: Sequence[str], settings: GinSettings, num_processes: int, remaining: int
) -> SmallerMesh:
    process = subprocess.run(
        [*python, "-m", FITTING, str(num_processes), str(remaining), json.dumps(settings)],
        # Simulated devices: this machine need not have the devices of all processes.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"the run cannot go on with fewer processes: {reason}")
    return SmallerMesh(**json.loads(process.stdout.splitlines()[-1]))
