"""The collectives of a step are grouped by what causes them, and their programs are found."""

from __future__ import annotations

import pathlib

from mtfrun import mtf
from mtfrun.tools.planning.collectives import NeededCollective, group_collectives
from mtfrun.tools.planning.dtensor_programs import take_programs
from mtfrun.tools.planning.program import Collective
from tests.tools.planning.programs import LOOPS, NEEDED


def _needed(
    kind: str, axes: str, sizes: tuple[int, ...], partition: tuple[str, ...], num_bytes: int
) -> NeededCollective:
    return NeededCollective(Collective(kind, (axes,), 2, num_bytes), sizes, partition, times=3)


def test_a_group_names_the_dimensions_of_shapes_that_match() -> None:
    mesh = mtf.Mesh("data:2,model:2", "batch:data;d_ff:model;heads:model")
    mesh.partition("batch:4;d_ff:8")
    mesh.partition("batch:4;heads:2")
    needed = [
        _needed("all-gather", "model", (4, 8), ("data", "model"), 128),
        _needed("all-gather", "model", (4, 8), ("data", "model"), 128),
        _needed("all-reduce", "data", (8,), ("model",), 16),
    ]
    gathers, reductions = group_collectives(needed, mesh)
    assert str(gathers) == "6 all-gather over model (d_ff): 768 bytes on each device"
    assert str(reductions) == "3 all-reduce over data (batch): 48 bytes on each device"
    # Of two devices each sends its half once to gather, and twice to reduce.
    assert (gathers.sent_bytes, reductions.sent_bytes) == (768 // 2, 48)


def test_a_reduce_scatter_sends_all_parts_but_its_own() -> None:
    assert Collective("reduce-scatter", ("data",), 4, 10).sent_bytes == 30
    assert Collective("all-to-all", ("data",), 4, 40).sent_bytes == 30
    assert Collective("all-reduce", ("data",), 4, 40).sent_bytes == 60


def test_the_program_of_the_simplified_text_is_taken_once(tmp_path: pathlib.Path) -> None:
    texts = {"DTensorSPMDExpansion": LOOPS, "CSE": NEEDED, "DTensorFunctionRenaming": LOOPS}
    for number, (phase, text) in enumerate(texts.items()):
        name = f"dtensor.{number:04}.dtensor_mlir.after_{phase}.__inference__trace_7.mlir"
        (tmp_path / name).write_text(text)
    (tmp_path / "dtensor.0003.dtensor_mlir.after_CSE.Relayout.mlir").write_text(NEEDED)
    (step,) = take_programs(tmp_path)
    assert [op.collective.kind for op, _ in step.needed.collectives if op.collective] == [
        "all-reduce",
        "all-gather",
    ]
    assert [times for _, times in step.running.collectives] == [3]
    assert not list(tmp_path.iterdir()) and take_programs(tmp_path) == []
