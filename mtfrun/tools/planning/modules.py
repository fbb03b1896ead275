"""The files to which DTensor writes the programs that it compiles.

It does so where the environment asks for this before TensorFlow is imported, see
`mtfrun.cli.program_dump`, which imports no TensorFlow.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from mtfrun.tools.planning.module_text import parse_module
from mtfrun.tools.planning.program import Program
from mtfrun.tools.planning.reduce_scatters import with_reduce_scatters

# The passes after which it writes: that which adds collectives, that which removes repeated ones,
# and the last one. A pass that changes nothing writes no file.
_EXPANSION, _SIMPLIFICATION, _LAST = "DTensorSPMDExpansion", "CSE", "DTensorFunctionRenaming"


class CompiledStep(NamedTuple):
    """A program at two times of its compilation.

    Attributes:
      needed: with the collectives that it needs, each with its layouts.
      running: as it runs: on CPUs an all-gather has become an all-reduce of zeros and the device's
        part, and small all-reduces are merged.
    """

    needed: Program
    running: Program


def take_programs(folder: str | pathlib.Path) -> list[CompiledStep]:
    """Returns the programs of the `mtf.function`s compiled since the last call, in their order.

    Their files, and those of other programs, are removed.
    """
    folder = pathlib.Path(folder)
    programs = []
    for file in sorted(folder.glob(f"dtensor.*.after_{_EXPANSION}.__inference__trace_*.mlir")):
        _, _, _, name = file.name.split(".", 3)
        name = name.removeprefix(f"after_{_EXPANSION}.")
        simplified = _of_pass(folder, _SIMPLIFICATION, name)
        (running,) = _of_pass(folder, _LAST, name)
        needed = with_reduce_scatters(_program((simplified or [file])[0]))
        programs.append(CompiledStep(needed, _program(running)))
    for file in folder.glob("dtensor.*.mlir"):
        file.unlink()
    return programs


def _program(file: pathlib.Path) -> Program:
    with file.open(encoding="utf-8") as lines:
        return parse_module(lines)


def _of_pass(folder: pathlib.Path, name_of_pass: str, name: str) -> list[pathlib.Path]:
    return sorted(folder.glob(f"dtensor.*.after_{name_of_pass}.{name}"))
