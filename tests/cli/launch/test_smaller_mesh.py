"""The largest mesh of fewer processes on which a configuration can be built."""

from __future__ import annotations

import pathlib
import sys

import pytest

from mtfrun.cli.launcher import Launcher, Output
from mtfrun.cli.parser import parse_flags
from mtfrun.cli.smaller_mesh import smaller_meshes
from mtfrun.errors import InputError
from tests.cli.command import tiny_experiment


def _launcher(folder: pathlib.Path, num_processes: int, *flags: str) -> Launcher:
    layout = "--gin.LAYOUT='batch:data;d_ff:model'"
    command = ["train", *tiny_experiment(folder), layout, f"--model_dir={folder}/run", *flags]
    parsed = parse_flags(["launch", "-n", str(num_processes), "--", *command])
    program = [sys.executable, "-m", "mtfrun"]
    return Launcher(parsed, command, Output(sys.stderr), program=program)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MESH_SHAPE", "Mesh.shape"])
def test_the_batch_decides_how_many_remain(name: str, tmp_path: pathlib.Path) -> None:
    launcher = _launcher(tmp_path, 4, f"--gin.{name}='data:4,model:2'", "--gin.BATCH_SIZE=8")
    # Three parts of 8 rows are not possible.
    assert launcher.shrink(3) == "data:2,model:2" and launcher.num_processes == 2
    assert launcher.command[-1] == f"--gin.{name}='data:2,model:2'"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        ("d_ff:model", "the layout does not split the batch over an axis of the mesh"),
        ("batch:data", "no axis of 'data' can be divided by the processes"),  # it is inside of them
    ],
)
def test_an_axis_of_the_batch_lies_across_processes(
    layout: str, complaint: str, tmp_path: pathlib.Path
) -> None:
    flags = ["--gin.MESH_SHAPE='data:1,model:2'", f"--gin.LAYOUT={layout!r}"]
    with pytest.raises(
        InputError, match=f"^the run cannot go on with fewer processes: {complaint}"
    ):
        _launcher(tmp_path, 2, *flags).shrink(1)


def test_only_equal_parts_of_the_axis_are_tried() -> None:
    sizes = {"data": 4, "model": 3}
    assert [mesh for _, mesh in smaller_meshes(sizes, "data", 2, 1)] == ["data:2,model:3"]
    assert [mesh for _, mesh in smaller_meshes(sizes, "data", 8, 7)] == [
        "data:3,model:3",
        "data:2,model:3",
        "data:1,model:3",
    ]
