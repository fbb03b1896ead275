"""The command `optimum`, on results whose parabolas have a known minimum."""

from __future__ import annotations

import math
import pathlib

import pytest

from mtfrun.tools.sweep import RunResult, Sweep
from mtfrun.tools.sweep.sweep import SweepRow
from tests.cli.command import error_line, mtfrun_here

RATES = ["0.0125", "0.025", "0.05", "0.1", "0.2"]
# Half an octave apart.
LOWEST = {"narrow": 0.04, "wide": 0.04 / math.sqrt(2)}


@pytest.fixture
def sweep(tmp_path: pathlib.Path) -> pathlib.Path:
    """A sweep of two rows and two seeds, whose losses are 2 + 0.1 log2(rate / lowest)^2."""
    directory = tmp_path / "sweep"
    directory.mkdir()
    rows = {name: SweepRow() for name in LOWEST}
    sweep = Sweep(["x.gin"], {}, rows, {"LEARNING_RATE": RATES}, [0, 1], "bits_per_byte")
    sweep.write(directory)
    for run in sweep.runs():
        assert run.seed is not None
        # A fifth of an octave from the optimum of the row, on either side.
        lowest = LOWEST[run.row.split(",")[0]] * 2 ** (0.2 * (2 * run.seed - 1))
        loss = 2.0 + 0.1 * math.log2(float(run.values["LEARNING_RATE"]) / lowest) ** 2
        metrics = {"bits_per_byte": loss, "loss": 5.0 - loss}
        result = RunResult(run.name, run.row, run.seed, run.values, "finished", metrics=metrics)
        result.write(directory / "results" / f"{run.name}.json")
    return directory


def test_a_line_has_the_optimum_its_error_and_what_that_of_the_first_row_costs(
    sweep: pathlib.Path,
) -> None:
    process = mtfrun_here("optimum", str(sweep))
    assert process.returncode == 0, process.stderr.decode()
    heading, narrow, wide = (line.split() for line in process.stdout.decode().splitlines())
    assert heading[:4] == ["row", "LEARNING_RATE", "error", "bits_per_byte"]
    # The standard error of the two seeds is 0.2 octaves, the factor 2 ** 0.2; the minimum of their
    # mean is 0.1 * 0.2 ** 2 above 2.
    assert narrow == ["narrow", "0.04", "x/", "1.15", "2.0040", "2.0040"]
    # Half an octave from the optimum: 0.1 / 2 ** 2 more.
    assert wide == ["wide", "0.02828", "x/", "1.15", "2.0040", "2.0290"]


def test_a_best_value_at_the_end_is_not_an_optimum(sweep: pathlib.Path) -> None:
    process = mtfrun_here("optimum", str(sweep), "--metric=loss")
    (line,) = [x for x in process.stdout.decode().splitlines() if x.startswith("narrow ")]
    assert "not between 0.0125, 0.2" in line


def test_a_picture_is_written(sweep: pathlib.Path, tmp_path: pathlib.Path) -> None:
    process = mtfrun_here("optimum", str(sweep), f"--picture={tmp_path}/x.svg")
    assert process.returncode == 0, process.stderr.decode()
    assert ">wide</text>" in (tmp_path / "x.svg").read_text()


def test_bad_input_is_one_line(sweep: pathlib.Path) -> None:
    assert "optimum needs the directory of a sweep" in error_line(mtfrun_here("optimum"))
    line = error_line(mtfrun_here("optimum", str(sweep), "--parameter=LEARNING_RATES"))
    assert "has no value of 'LEARNING_RATES', did you mean 'LEARNING_RATE'" in line
