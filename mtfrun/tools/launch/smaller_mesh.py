"""The program that finds the largest mesh of fewer processes on which a training can be built.

`python -m mtfrun.tools.launch.smaller_mesh 4 3 SETTINGS`, with `GinSettings` as JSON, prints it as
JSON, for at most 3 of 4 processes. It makes no variables.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.configuration.errors import one_line
from mtfrun.configuration.statements import Binding, name_to_override
from mtfrun.errors import InputError
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import build
from mtfrun.experiment.runs.settings import ROOTS
from mtfrun.tools.launch.launcher import GinSettings, SmallerMesh

# The dimensions of a batch that a mesh axis may split.
_OF_BATCHES = ("batch", "outer_batch")


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


def largest_that_can_be_built(
    settings: GinSettings, num_processes: int, remaining: int
) -> SmallerMesh:
    name = name_to_override(_parse(settings), "mtf.Mesh.shape")
    shape = mtf.convert_to_shape(config.argument(mtf.Mesh, "shape"))
    layout = mtf.convert_to_layout_rules(config.argument(mtf.Mesh, "layout", ""))
    axes = [axis for name in _OF_BATCHES if (axis := layout.get(name)) is not None]
    if not axes:
        raise InputError(
            f"the layout {layout.to_string or 'without rules'} does not split the batch over an "
            "axis of the mesh, which could become smaller"
        )
    sizes = {dimension.name: dimension.size for dimension in shape}
    names = " and ".join(map(repr, dict.fromkeys(axes)))
    reason = f"no axis of {names} can be divided by {num_processes} processes"
    for axis in dict.fromkeys(axes):
        for smaller in smaller_meshes(sizes, axis, num_processes, remaining):
            smaller = dataclasses.replace(smaller, name=name)
            _parse(settings.with_mesh(smaller))
            try:
                config.build(Training, *build())
            except InputError as error:
                reason = one_line(error)
            else:
                return smaller
    raise InputError(reason)


def _parse(settings: GinSettings) -> list[Binding]:
    return config.parse(
        settings.files, settings.bindings, search_paths=settings.search_paths, roots=ROOTS
    )


def _main(arguments: Sequence[str]) -> int:
    num_processes, remaining = map(int, arguments[:2])
    try:
        settings = GinSettings(*json.loads(arguments[2]))
        smaller = largest_that_can_be_built(settings, num_processes, remaining)
    except InputError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    print(json.dumps(dataclasses.asdict(smaller)))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
