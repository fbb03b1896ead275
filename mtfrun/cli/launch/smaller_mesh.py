"""The program that finds the largest mesh of fewer processes on which a training can be built.

`python -m mtfrun.cli.launch.smaller_mesh 4 3 SETTINGS` prints the fields of `SmallerMesh` as
JSON, for at most 3 of 4 processes; SETTINGS are those of `GinSettings`. It makes no variables.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.configuration.errors import one_line
from mtfrun.configuration.statements import name_to_override
from mtfrun.errors import InputError
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import build
from mtfrun.experiment.runs.settings import Settings

# The dimensions of a batch that a mesh axis may split.
_OF_BATCHES = ("batch", "outer_batch")


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


def largest_that_can_be_built(
    settings: Settings, num_processes: int, remaining: int
) -> dict[str, int | str]:
    name = name_to_override(settings.parse(), "mtf.Mesh.shape")
    shape = mtf.convert_to_shape(config.argument(mtf.Mesh, "shape"))
    layout = mtf.convert_to_layout_rules(config.argument(mtf.Mesh, "layout", ""))
    axes = [axis for name in _OF_BATCHES if (axis := layout.get(name)) is not None]
    if not axes:
        raise InputError(f"the layout {layout.to_string} does not split the batch over the mesh")
    sizes = {dimension.name: dimension.size for dimension in shape}
    names = " and ".join(map(repr, dict.fromkeys(axes)))
    reason = f"no axis of {names} can be divided by {num_processes} processes"
    for axis in dict.fromkeys(axes):
        for number, mesh in smaller_meshes(sizes, axis, num_processes, remaining):
            bindings = [*settings.bindings, (f"--gin.{name}={mesh!r}", f"{name} = {mesh!r}")]
            dataclasses.replace(settings, bindings=bindings).parse()
            try:
                config.build(Training, *build())
            except InputError as error:
                reason = one_line(error)
            else:
                return {"num_processes": number, "mesh": mesh, "name": name}
    raise InputError(reason)


def _main(arguments: Sequence[str]) -> int:
    num_processes, remaining = map(int, arguments[:2])
    try:
        settings = Settings(*json.loads(arguments[2]))
        smaller = largest_that_can_be_built(settings, num_processes, remaining)
    except InputError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    print(json.dumps(smaller))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
