"""The command plan: sizes that do not divide, JSON, pictures, and the memory of a device."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.cli.command import TINY, error_line, mtfrun, mtfrun_here

LM = ["--gin_file=runs/quickstart.gin", *TINY, "--layout=batch:data;heads:model;d_ff:model"]


def test_all_dimensions_that_do_not_divide_are_named_with_sizes_that_do() -> None:
    line = error_line(mtfrun_here("plan", *LM, "--mesh=data:3,model:5"))
    for problem in ("heads:4 over model:5 (5)", "d_ff:32 over model:5 (30 or 35)"):
        assert problem in line
    assert "batch:8 over data:3 (6 or 9)" in line


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--picture=mesh.png", "name a file that ends in .svg, .html or .txt"),
        ("--device_memory=big", "'big' is not a number of bytes"),
        ("--bandwidth=rows:1GB", "--bandwidth names rows: the axes of the mesh are data, model"),
    ],
)
def test_values_of_flags_that_cannot_be_used_are_refused(flag: str, problem: str) -> None:
    assert problem in error_line(mtfrun_here("plan", *LM, "--mesh=data:2,model:2", flag))


@pytest.mark.slow
def test_a_plan_is_json_with_a_picture_and_compared_with_the_memory(tmp_path: pathlib.Path) -> None:
    picture = tmp_path / "mesh.html"
    flags = ["--mesh=data:64,model:4", "--gin.BATCH_SIZE=64", "--device_memory=10KB"]
    process = mtfrun("plan", *LM, *flags, "--json", f"--picture={picture}")
    assert process.returncode == 6, process.stderr.decode()
    plan = json.loads(process.stdout)
    assert plan["mesh"] == {"data": 64, "model": 4} and plan["device_memory"] == 10_000
    assert plan["memory"]["total"] > 10_000
    assert {"all-reduce"} <= {item["kind"] for item in plan["collectives"]}
    assert "<svg" in picture.read_text() and "collectives" in picture.read_text()
