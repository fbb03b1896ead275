"""The programs that DTensor compiles and writes to files, in MLIR's generic form.

See https://mlir.llvm.org. Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mtfrun.extras.plan.program import FORWARDING, Block, Collective, Operation, Program, Value

_FUNCTION = re.compile(r"^  func\.func (?:private )?@([\w.]+)\((.*)\)")
_ARGUMENT = re.compile(r"%(\w+): (tensor<.*?>+)(?=[,) {]|$)")
_OPERATION = re.compile(r'^ *(?:(%[^="]*) = )?"\w+\.(\w+)"\(([^)]*)\)(.*)$')
_RESULT_NAME = re.compile(r"%(\w+)(?::(\d+))?")
_NAME = re.compile(r"%([\w#]+)")
_RETURN = re.compile(r"^ *(?:return|tf_device\.return) (.*) : ")
_TYPE = re.compile(r"tensor<(?:(\*)x|((?:[\d?]+x)*))(?:!tf_type\.)?(\w+)(?:<[^()]*?>+)?>")
_ATTRIBUTES = re.compile(r"<\{(.*?)\}>")
_CONSTANT = re.compile(r"dense<(.*?)> : tensor<((?:\d+x)*)(\w+)>")
_CALLED = re.compile(r"\bf = @([\w.]+)")
# In the layouts, because the attribute of the module is the first mesh of the process.
_MESH = re.compile(r"sharding_specs:\S* mesh:[^|]*\|([^|]*)\|")
# The device IDs of a mesh, which every layout lists.
_DEVICES = re.compile(r"mesh:[^|]*\|[^|]*\|((?:\d+,)+\d+)\|")
_LAYOUT = re.compile(r"(\w+)_layout = #dtensor\.layout<sharding_specs:(\S*), mesh")

# As DTensor needs them, and as they run.
_KINDS = {
    "DTensorAllReduce": "all-reduce",
    "DTensorAllGather": "all-gather",
    "DTensorAllToAll": "all-to-all",
    "DTensorReduceScatter": "reduce-scatter",
    "CollectiveReduceV2": "all-reduce",
    "CollectiveGatherV2": "all-gather",
    "CollectiveAllToAllV2": "all-to-all",
    "CollectiveReduceScatterV2": "reduce-scatter",
}
# The passes after which DTensor writes a program: it has added collectives, removed repeated ones,
# and ended. A pass that changes nothing writes no file.
_PASSES = _EXPANSION, _SIMPLIFICATION, _LAST = (
    "DTensorSPMDExpansion",
    "CSE",
    "DTensorFunctionRenaming",
)


def dump_environment(folder: str) -> dict[str, str]:
    """Returns the variables that make TensorFlow, when it is imported, write programs to `folder`.

    After all passes it would write a hundred times as much.
    """
    return {
        "TF_DUMP_GRAPH_PREFIX": folder,
        "TF_CPP_VMODULE": "dtensor_mlir_passes=2",
        "MLIR_BRIDGE_LOG_PASS_FILTER": ";".join(_PASSES),
    }


class CompiledStep(NamedTuple):
    """A program at two times: `needed` has its collectives with layouts, `running` is executed.

    On CPUs an all-gather becomes an all-reduce of zeros and the device's part, and small
    all-reduces are merged.
    """

    needed: Program
    running: Program


def take_programs(folder: str | pathlib.Path) -> list[CompiledStep]:
    """Returns and removes the programs of `mtf.function`s since the last call, in their order."""
    folder = pathlib.Path(folder)
    programs = []
    for file in sorted(folder.glob(f"dtensor.*.after_{_EXPANSION}.__inference__trace_*.mlir")):
        _, _, _, name = file.name.split(".", 3)
        name = name.removeprefix(f"after_{_EXPANSION}.")
        (running,) = folder.glob(f"dtensor.*.after_{_LAST}.{name}")
        simplified = sorted(folder.glob(f"dtensor.*.after_{_SIMPLIFICATION}.{name}"))
        step = []
        for path in ([*simplified, file][0], running):
            with path.open(encoding="utf-8") as lines:
                step.append(parse_module(lines))
        programs.append(CompiledStep(*step))
    for file in folder.glob("dtensor.*.mlir"):
        file.unlink()
    return programs


def parse_module(lines: Iterable[str]) -> Program:
    """The module is one of a single `mtf.function`: its function `main` calls at most one other."""
    parser = _Parser(lines)
    functions: dict[str, Block] = {}
    for line in parser.lines:
        if match := _FUNCTION.match(line):
            names: dict[str, Value] = {}
            functions[match[1]] = parser.block(parser.arguments(match[2], names), names)
    called = (_CALLED.search(operation.attributes) for operation in functions["main"].operations)
    bodies = [functions[match[1]] for match in called if match and match[1] in functions]
    return Program(parser.mesh, [*bodies, functions["main"]][0], parser.constants)


class _Parser:
    """Reads lines; every region of an operation has names in addition to the ones around it."""

    def __init__(self, lines: Iterable[str]):
        self.lines = self._shorten(lines)
        self.mesh: dict[str, int] = {}
        self.constants: dict[Value, str] = {}
        self._numbers = itertools.count()
        self._producers: dict[Value, Operation] = {}

    def _shorten(self, lines: Iterable[str]) -> Iterator[str]:
        """Yields lines without device IDs, most of the text of large meshes, and finds the mesh."""
        devices = ""
        for line in lines:
            line = line.rstrip("\n")
            if not self.mesh and (match := _MESH.search(line)):
                axes = (axis.split("=") for axis in match[1].split(","))
                self.mesh = {name: int(size) for name, size in axes}
                match = _DEVICES.search(line)
                devices = match[1] if match else ""
            yield line.replace(devices, "") if devices else line

    def block(self, arguments: tuple[Value, ...], names: dict[str, Value]) -> Block:
        operations: list[Operation] = []
        results: tuple[Value, ...] = ()
        for line in self.lines:
            stripped = line.lstrip()
            if stripped.startswith("}"):
                self._last = stripped
                break
            if stripped.startswith("^bb"):
                arguments = self.arguments(stripped, names)
            elif match := _RETURN.match(line):
                results = _operands(match[1], names)
            elif match := _OPERATION.match(line):
                if match[2] in ("Yield", "return"):
                    results = _operands(match[3], names)
                else:
                    operations.append(self._operation(match, names))
        return Block(arguments, tuple(operations), results)

    def _operation(self, match: re.Match[str], names: dict[str, Value]) -> Operation:
        result_names, name, operand_names, rest = match.groups()
        operands = _operands(operand_names, names)
        attributes = _ATTRIBUTES.search(rest)
        text = attributes[1] if attributes else ""
        regions = []
        has_region = rest.endswith("({")
        while has_region:
            regions.append(self.block((), dict(names)))
            rest = self._last
            has_region = rest.endswith("{")
        results = self._values(rest.rpartition("->")[2])
        # Operations read the results "%a:2, %b" as a#0, a#1 and b.
        read_names = [
            f"{name}#{i}" if count else name
            for name, count in _RESULT_NAME.findall(result_names or "")
            for i in range(int(count or 1))
        ]
        names |= zip(read_names, results, strict=True)
        if name == "Const":
            self.constants[results[0]] = text
        operation = Operation(name, operands, results, text, rest, tuple(regions))
        if name == "WhileRegion":
            times = self._trip_count(operands, regions[0])
            operation = dataclasses.replace(operation, trip_count=times)
        if name in _KINDS:
            operation = dataclasses.replace(operation, collective=self._collective(operation))
        self._producers |= dict.fromkeys(results, operation)
        return operation

    def arguments(self, text: str, names: dict[str, Value]) -> tuple[Value, ...]:
        found = _ARGUMENT.findall(text)
        values = self._values(", ".join(type_ for _, type_ in found))
        names |= zip((name for name, _ in found), values, strict=True)
        return values

    def _values(self, types: str) -> tuple[Value, ...]:
        # A size that only a run tells counts as 1.
        return tuple(
            Value(
                next(self._numbers),
                tuple(int(x.replace("?", "1")) for x in sizes.split("x") if x),
                dtype,
            )
            for _, sizes, dtype in _TYPE.findall(types)
        )

    def _trip_count(self, operands: tuple[Value, ...], condition: Block) -> int:
        """Returns how often the body of a loop `while i < limit` runs that adds 1 to i; else 1."""
        initial = dict(zip(condition.arguments, operands, strict=True))
        less = next(x for x in reversed(condition.operations) if x.name not in FORWARDING)
        if less.name != "Less":
            return 1
        origins = [self._origin(value) for value in less.operands]
        origins = [self._origin(initial.get(value, value)) for value in origins]
        if not self.constants.keys() >= {*origins}:
            return 1
        first, limit = (constant_array(self.constants[x]).reshape(-1)[0] for x in origins)
        return max(0, int(limit) - int(first))

    def _origin(self, value: Value) -> Value:
        while (producer := self._producers.get(value)) and producer.name in FORWARDING:
            value = producer.operands[0]
        return value

    def _collective(self, operation: Operation) -> Collective:
        layouts = layouts_of_relayout(operation.attributes)
        if layouts is not None:
            pairs = zip(*layouts, strict=True)
            axes = tuple(axis for axis, new in pairs if axis and axis != new)
        else:
            if operation.name.startswith("DTensor"):  # the first row has the first device's group
                groups = self.constants[self._origin(operation.operands[1])]
                group = constant_array(groups)[0].tolist()
            else:
                group = self._running_group(operation.operands[2])
            axes = varying_axes(group, self.mesh)
        size = math.prod(self.mesh[axis] for axis in axes)
        return Collective(_KINDS[operation.name], axes, size, operation.results[0].num_bytes)

    def _running_group(self, key: Value) -> list[int]:
        """Returns the devices of the first one's group; each slices its key from a constant."""
        key = self._origin(key)
        while key not in self.constants:
            key = self._origin(self._producers[key].operands[0])
        keys = constant_array(self.constants[key]).reshape(-1)
        if keys.size == 1:  # all devices have the same
            return list(range(math.prod(self.mesh.values())))
        return np.flatnonzero(keys == keys[0]).tolist()


def _operands(text: str, names: Mapping[str, Value]) -> tuple[Value, ...]:
    return tuple(names[name] for name in _NAME.findall(text))


def constant_array(attributes: str) -> np.ndarray:
    """Parses 'value = dense<[[0, 1], [2, 3]]> : tensor<2x2xi32>'."""
    match = _CONSTANT.search(attributes)
    assert match is not None, attributes
    sizes = [int(size) for size in match[2].split("x") if size]
    text = match[1].strip('"')
    if text.startswith("0x"):
        dtype = np.int64 if match[3] == "i64" else np.int32
        return np.frombuffer(bytes.fromhex(text[2:]), dtype).reshape(sizes)
    numbers = np.array([int(float(x)) for x in re.findall(r"-?\d[\d.e+]*", text)], np.int64)
    if numbers.size == 1:  # the same for all elements
        return np.full(sizes, numbers[0])
    return numbers.reshape(sizes)


def varying_axes(devices: list[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the axes along which these devices differ; the mesh numbers them row by row."""
    places = np.unravel_index(devices, list(mesh.values()))
    return tuple(
        axis for axis, place in zip(mesh, places, strict=True) if np.unique(place).size > 1
    )


def layouts_of_relayout(
    attributes: str,
) -> tuple[tuple[str | None, ...], tuple[str | None, ...]] | None:
    """Returns the mesh axis of every dimension before and after; None if it is not a relayout."""
    layouts = {name: specs(text) for name, text in _LAYOUT.findall(attributes)}
    return (layouts["input"], layouts["output"]) if "output" in layouts else None


def specs(text: str) -> tuple[str | None, ...]:
    """Returns the mesh axes of "data,unsharded"."""
    return tuple(None if axis == "unsharded" else axis for axis in text.split(",") if axis)
