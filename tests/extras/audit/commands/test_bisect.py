"""The command `audit bisect`, on runs that are written without training."""

from __future__ import annotations

import json
import pathlib

from tests.cli.command import error_line, mtfrun_here
from tests.extras.audit.runs import from_step, write_run


def test_two_runs_are_compared(tmp_path: pathlib.Path) -> None:
    a, b = str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b"))
    c = str(write_run(tmp_path / "c", change=from_step(3, batch=5)))
    equal = mtfrun_here("audit", "bisect", a, b)
    assert equal.returncode == 0
    assert equal.stdout.decode().endswith("8 steps are equal to the bit\n")
    different = mtfrun_here("audit", "bisect", a, c)
    assert different.returncode == 5
    assert "\nthe batch of step 3 differs: 0000000000000021, and " in different.stdout.decode()
    (line,) = mtfrun_here("audit", "bisect", a, c, "--json").stdout.splitlines()
    assert json.loads(line)["difference"]["step"] == 3


def test_mistakes_are_one_line(tmp_path: pathlib.Path) -> None:
    a = str(write_run(tmp_path / "a"))
    assert "is not a directory" in error_line(mtfrun_here("audit", "bisect", a, f"{tmp_path}/none"))
    assert f"{tmp_path} has no ledger" in error_line(
        mtfrun_here("audit", "bisect", a, str(tmp_path))
    )
