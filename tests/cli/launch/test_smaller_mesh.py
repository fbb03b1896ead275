"""The largest mesh of fewer processes on which a configuration can be built."""

from __future__ import annotations

import argparse
import pathlib
import sys

import pytest

from mtfrun.cli.launch.launcher import GinSettings, Launch, Program, shrink
from mtfrun.cli.launch.smaller_mesh import largest_that_can_be_built, smaller_meshes
from mtfrun.cli.parser import parse_flags
from mtfrun.errors import InputError
from mtfrun.experiment.runs.settings import Settings
from tests.cli.command import tiny_experiment


@pytest.fixture
def train(tmp_path: pathlib.Path) -> list[str]:
    flags = ["--gin.LAYOUT='batch:data;d_ff:model'", f"--model_dir={tmp_path}/run"]
    return ["train", *tiny_experiment(tmp_path), *flags]


def _settings(flags: argparse.Namespace) -> Settings:
    return Settings(flags.gin_file, flags.bindings, flags.gin_search_paths)


@pytest.mark.parametrize("name", ["MESH_SHAPE", "Mesh.shape"])
def test_the_batch_decides_how_many_remain(name: str, train: list[str]) -> None:
    flags = parse_flags([*train, f"--gin.{name}='data:4,model:2'", "--gin.BATCH_SIZE=8"])
    smaller = largest_that_can_be_built(_settings(flags), 4, 3)
    # Three parts of 8 rows are not possible.
    assert smaller == {"num_processes": 2, "mesh": "data:2,model:2", "name": name}


def test_a_layout_that_splits_no_batch_has_no_smaller_mesh(train: list[str]) -> None:
    flags = parse_flags([*train, "--gin.MESH_SHAPE='data:1,model:2'", "--gin.LAYOUT='d_ff:model'"])
    with pytest.raises(InputError, match="d_ff:model does not split the batch"):
        largest_that_can_be_built(_settings(flags), 2, 1)


def test_an_axis_that_lies_inside_of_processes_cannot_shrink(train: list[str]) -> None:
    flags = parse_flags([*train, "--gin.MESH_SHAPE='data:1,model:2'"])
    with pytest.raises(InputError, match="no axis of 'data' can be divided by 2 processes"):
        largest_that_can_be_built(_settings(flags), 2, 1)


def test_only_equal_parts_of_the_axis_are_tried() -> None:
    sizes = {"data": 4, "model": 3}
    assert [mesh for _, mesh in smaller_meshes(sizes, "data", 2, 1)] == ["data:2,model:3"]
    assert [mesh for _, mesh in smaller_meshes(sizes, "data", 8, 7)] == [
        "data:3,model:3",
        "data:2,model:3",
        "data:1,model:3",
    ]


@pytest.mark.slow
def test_the_program_says_why_nothing_fits(train: list[str]) -> None:
    with pytest.raises(InputError, match=r"^the run cannot go on with fewer processes: no axis of"):
        flags = parse_flags([*train, "--gin.MESH_SHAPE='data:1,model:2'"])
        settings = GinSettings(flags.gin_file, flags.bindings, flags.gin_search_paths)
        shrink(Launch(Program([sys.executable], [], [], settings=settings), 2), 1)
