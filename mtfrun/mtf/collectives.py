"""The collectives in the programs that DTensor compiled: what devices send each other.

DTensor writes its programs to files where the environment asks for this before TensorFlow starts:
`TF_DUMP_GRAPH_PREFIX` names the folder, `TF_CPP_VMODULE=dtensor_mlir_passes=2` asks for the text
after every pass. `read_dump(folder)` then returns the collectives of the programs that ran.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from mtfrun.mtf.mesh import Mesh
from mtfrun.mtf.shape import Shape

# The passes that insert collectives and remove repeated ones; later passes replace them by other
# operations. A pass that changes nothing writes no file.
_EXPANSION, _SIMPLIFICATION = "after_DTensorSPMDExpansion", "after_CSE"
_KINDS = {
    "AllReduce": "all-reduce",
    "AllGather": "all-gather",
    "AllToAll": "all-to-all",
    "ReduceScatter": "reduce-scatter",
}
_COLLECTIVE = re.compile(rf'"tf\.DTensor({"|".join(_KINDS)})"\(([^)]*)\)(.*)')
_LAYOUT = re.compile(r"(\w+)_layout = #dtensor\.layout<sharding_specs:(\S*), mesh")
_RESULT_LAYOUT = re.compile(r'_layout = \["sharding_specs:(\S*) mesh')
_RESULT_TYPE = re.compile(r"-> tensor<((?:\d+x)*)(\w+)>")
_CONSTANT = re.compile(r'(%\w+) = "tf\.Const"\(\) <\{value = dense<(.*?)> : tensor<([\dx]*)xi32>')
# In the layouts, because the attribute of the module is the first mesh of the process.
_MESH = re.compile(r"sharding_specs:\S* mesh:[^|]*\|([^|]*)\|")
_BYTES = {"f64": 8, "i64": 8, "ui64": 8, "bf16": 2, "f16": 2, "i16": 2, "i8": 1, "i1": 1}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: "all-reduce", "all-gather", "all-to-all" or "reduce-scatter".
      axes: the mesh axes along which devices communicate.
      sizes: the global sizes of the result.
      partition: the mesh axis of every dimension of the operand (of an all-reduce: of the result),
        None where it is not split.
      device_bytes: the size of the result on one device.
    """

    kind: str
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    partition: tuple[str | None, ...]
    device_bytes: int

    def dimensions(self, mesh: Mesh) -> list[str]:
        """Returns the names of the dimensions that may cause it.

        A program has sizes and no names: they are compared with the shapes that `mesh` has laid
        out. Where none matches, and for an all-reduce, whose result lacks the summed dimension, it
        is all dimensions that were laid out over its axes.
        """
        shapes = [] if self.kind == "all-reduce" else mesh.shapes_seen
        matching = [
            shape
            for shape in shapes
            if tuple(shape.to_integer_list) == self.sizes
            and _split_axes(mesh, shape) == self.partition
        ]
        dims = {dim for shape in matching or mesh.shapes_seen for dim in shape}
        return sorted({dim.name for dim in dims if mesh.axis_of(dim) in self.axes})


def read_dump(folder: str | pathlib.Path) -> list[list[Collective]]:
    """Returns the collectives of every `mtf.function`, in the order of compilation.

    Collectives inside a loop are counted once. All-reduces that DTensor later merges into one are
    counted individually.
    """
    folder = pathlib.Path(folder)
    programs = []
    for file in sorted(folder.glob(f"dtensor.*.{_EXPANSION}.__inference__trace_*.mlir")):
        simplified = sorted(
            folder.glob(f"dtensor.*.{_SIMPLIFICATION}.{file.name.split('.', 4)[4]}")
        )
        text = (simplified[0] if simplified else file).read_text(encoding="utf-8")
        programs.append(list(_collectives(text)))
    return programs


def describe_collectives(program: Iterable[Collective], mesh: Mesh) -> list[str]:
    """Returns a line for each kind of collective, its axes and dimensions: how many, how large."""
    groups: dict[tuple[str, str, str], list[int]] = collections.defaultdict(list)
    for item in program:
        key = (item.kind, ",".join(item.axes), ", ".join(item.dimensions(mesh)))
        groups[key].append(item.device_bytes)
    return [
        f"{len(sizes)} {kind} over {axes} ({dimensions}): {sum(sizes):,} bytes on each device"
        for (kind, axes, dimensions), sizes in sorted(groups.items())
    ]


def _collectives(module: str) -> Iterator[Collective]:
    mesh_match = _MESH.search(module)
    axes = dict(axis.split("=") for axis in mesh_match[1].split(",")) if mesh_match else {}
    axis_sizes = {name: int(size) for name, size in axes.items()}
    constants: dict[str, tuple[str, str]] = {}
    for line in module.splitlines():
        if constant := _CONSTANT.search(line):
            constants[constant[1]] = (constant[2], constant[3])
        if match := _COLLECTIVE.search(line):
            yield _collective(match[1], match[2].split(", "), match[3], axis_sizes, constants)


def _collective(
    operation: str,
    operands: list[str],
    attributes: str,
    axis_sizes: Mapping[str, int],
    constants: Mapping[str, tuple[str, str]],
) -> Collective:
    result = _RESULT_TYPE.search(attributes)
    assert result is not None, attributes
    local = [int(size) for size in result[1].split("x") if size]
    layouts = {name: _specs(specs) for name, specs in _LAYOUT.findall(attributes)}
    if "output" in layouts:
        before, after = layouts["input"], layouts["output"]
        moved = [axis for axis, new in zip(before, after, strict=True) if axis and axis != new]
    else:
        own = _RESULT_LAYOUT.search(attributes)
        before = after = _specs(own[1]) if own else (None,) * len(local)
        moved = _varying_axes(_first_group(*constants[operands[1]]), axis_sizes)
    return Collective(
        kind=_KINDS[operation],
        axes=tuple(moved),
        sizes=tuple(
            size * (axis_sizes[axis] if axis else 1)
            for size, axis in zip(local, after, strict=True)
        ),
        partition=before,
        device_bytes=math.prod(local) * _BYTES.get(result[2], 4),
    )


def _split_axes(mesh: Mesh, shape: Shape) -> tuple[str | None, ...]:
    """Returns the mesh axis of every dimension, None where it is not split, or by one device."""
    return tuple(
        axis if mesh.num_splits(dim) > 1 else None
        for dim, axis in zip(shape, mesh.partition(shape), strict=True)
    )


def _specs(text: str) -> tuple[str | None, ...]:
    """Returns the mesh axes of "data,unsharded"."""
    return tuple(None if axis == "unsharded" else axis for axis in text.split(",") if axis)


def _first_group(value: str, sizes: str) -> list[int]:
    """Returns the first row of a constant: the devices that communicate with the first one."""
    if value.startswith('"0x'):
        flat = np.frombuffer(bytes.fromhex(value.strip('"')[2:]), "<i4")
        rows = flat.reshape([int(size) for size in sizes.split("x")])
        return [int(device) for device in rows[0]]
    parsed = ast.literal_eval(value)
    first = parsed[0] if isinstance(parsed, list) and parsed else parsed
    return first if isinstance(first, list) else [first]


def _varying_axes(devices: list[int], axis_sizes: Mapping[str, int]) -> list[str]:
    """Returns the mesh axes along which the devices, numbered in row-major order, differ."""
    places = np.unravel_index(devices, list(axis_sizes.values()))
    return [axis for axis, place in zip(axis_sizes, places, strict=True) if len(set(place)) > 1]
