"""The largest mesh of fewer processes on which a configuration can be built."""

from __future__ import annotations

import pathlib
import sys

import pytest

from mtfrun.cli.launch.launcher import Launch, RunSettings, shrink, smaller_meshes
from mtfrun.cli.parser import parse_flags
from mtfrun.errors import InputError
from tests.cli.command import tiny_experiment


def _launch(folder: pathlib.Path, num_processes: int, *flags: str) -> Launch:
    layout = "--gin.LAYOUT='batch:data;d_ff:model'"
    command = ["train", *tiny_experiment(folder), layout, f"--model_dir={folder}/run", *flags]
    parsed = parse_flags(command)
    settings = RunSettings(parsed.gin_file, parsed.bindings, parsed.gin_search_paths)
    return Launch([sys.executable, "-m", "mtfrun"], command, num_processes, settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MESH_SHAPE", "Mesh.shape"])
def test_the_batch_decides_how_many_remain(name: str, tmp_path: pathlib.Path) -> None:
    launch = _launch(tmp_path, 4, f"--gin.{name}='data:4,model:2'", "--gin.BATCH_SIZE=8")
    smaller, mesh = shrink(launch, 3)
    # Three parts of 8 rows are not possible.
    assert (smaller.num_processes, mesh) == (2, "data:2,model:2")
    assert smaller.command[-1] == f"--gin.{name}='data:2,model:2'"
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
        shrink(_launch(tmp_path, 2, *flags), 1)


def test_only_equal_parts_of_the_axis_are_tried() -> None:
    sizes = {"data": 4, "model": 3}
    assert [mesh for _, mesh in smaller_meshes(sizes, "data", 2, 1)] == ["data:2,model:3"]
    assert [mesh for _, mesh in smaller_meshes(sizes, "data", 8, 7)] == [
        "data:3,model:3",
        "data:2,model:3",
        "data:1,model:3",
    ]
