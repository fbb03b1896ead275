"""Tables of sweeps: differences, ladders, optima."""

from __future__ import annotations

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mtfrun.extras.sweeps.analysis.scaling_law import ScalingLaw
from mtfrun.extras.sweeps.commands import table
from mtfrun.extras.sweeps.result import Results, RunResult
from mtfrun.extras.sweeps.sweep import Sweep, SweepRow
from tests.cli.command import ROOT, error_line, mtfrun_here
from tests.extras.sweeps.synthetic_sweep import write_sweep

LAW = ScalingLaw(math.log(1.2), math.log(60.0), math.log(2000.0), 0.45, 0.55)
SIZES = {"small": 50_000, "middle": 150_000, "large": 400_000, "largest": 900_000}


@pytest.fixture
def sweep(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with the results of a sweep, of which one run has not been trained."""
    directory = tmp_path / "ladder"
    directory.mkdir()
    rows = {name: SweepRow() for name in SIZES}
    grid = {"TRAIN_STEPS": ["500", "1000", "2000"]}
    sweep = Sweep(["x.gin"], {}, rows, grid, [0], "bits_per_byte")
    Results(directory).write_sweep(sweep)
    rng = np.random.default_rng(0)
    for run in sweep.runs()[1:]:
        steps, size = int(run.values["TRAIN_STEPS"]), SIZES[run.row.split(",")[0]]
        loss = float(LAW.loss(size, 1024 * steps)) * (1 + 0.002 * rng.standard_normal())
        result = RunResult(
            *(run.name, run.row, 0, run.values, "finished"),
            step=steps,
            metrics={"bits_per_byte": loss, "loss": 0.7 * loss},
            parameters=size,
            flops_per_token=6.0 * size,
            tokens_per_step=1024,
        )
        Results(directory / "results").write(result)
    return directory


def test_the_table_has_the_held_out_error_the_law_and_the_advice(sweep: pathlib.Path) -> None:
    # The command never imports TensorFlow, which a process of the tests may have done.
    program = (
        "import sys; from mtfrun.extras.sweeps.commands import table; "
        "from mtfrun.cli.main import main; "
        "table._DRAWS = 10; "
        f"code = main(['table', '--fit=ladder', {str(sweep)!r}, '--budget=1e14']); "
        "assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert process.returncode == 0, process.stderr.decode()
    lines = process.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines if "  held out  " in line] == [
        *("largest,TRAIN_STEPS=500", "largest,TRAIN_STEPS=1000", "largest,TRAIN_STEPS=2000")
    ]
    (error,) = (line for line in lines if line.startswith("largest error of the rows held out"))
    assert float(error.split()[-1].rstrip("%")) < 2
    assert "best for 1e+14 operations, 9.04 times those of the largest run:" in lines
    assert lines[-1] == "left out: small,TRAIN_STEPS=500,SEED=0 (not trained)"


@pytest.mark.slow
def test_json_has_the_law_and_the_advice_for_the_metric(
    sweep: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_DRAWS", 10)
    output = sweep.parent / "law.svg"
    flags = ["--format=json", "--hold_out=0", "--metric=loss", f"--picture={output}"]
    process = mtfrun_here("table", str(sweep), "--fit=ladder", *flags)
    assert process.returncode == 0, process.stderr.decode()
    values = json.loads(process.stdout)
    assert values["metric"] == "loss" and len(values["rows"]) == 11
    law, best = values["law"], values["best"]
    assert law["alpha"]["low"] <= law["alpha"]["value"] <= law["alpha"]["high"]
    assert best["operations"] == pytest.approx(10 * 6 * 900_000 * 2000 * 1024)
    spent = 6 * best["parameters"]["value"] * best["tokens"]["value"]
    assert spent == pytest.approx(best["operations"])
    assert output.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["DIR", "--budget=-1"], "--budget=-1: it must be more than 0, such as 1e15"),
        (["DIR", "--metric=accuracy"], "--metric=accuracy: more of it is better"),
        (["DIR", "--picture=law.gif"], "--picture=law.gif: name a file that ends in .svg or .png"),
        (["DIR", "--hold_out=-1"], "--hold_out=-1: it must be at least 0"),
        (["DIR", "--hold_out=2"], "those that are not held out have 2, 3 and 5: train more"),
        (["DIR", "--metric=perplexity"], "no evaluation has it; there are bits_per_byte, loss"),
        (["DIR/results"], "has no sweep.json"),
        (["DIR", "--parameter=D_FF"], "--parameter is not for this table: give --fit=optimum"),
        (["DIR", "--title=x"], "--title is not for this table: leave it out"),
        (["DIR", "--format=csv"], "--fit=ladder writes text or json, not csv"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(
    sweep: pathlib.Path, flags: list[str], message: str
) -> None:
    words = [word.replace("DIR", str(sweep)) for word in flags]
    assert message in error_line(mtfrun_here("table", "--fit=ladder", *words))


RATES = ["0.0125", "0.025", "0.05", "0.1", "0.2"]
# Half an octave apart.
LOWEST = {"narrow": 0.04, "wide": 0.04 / math.sqrt(2)}


@pytest.fixture
def optimum_sweep(tmp_path: pathlib.Path) -> pathlib.Path:
    """A sweep of two rows and two seeds, whose losses are 2 + 0.1 log2(rate / lowest)^2."""
    directory = tmp_path / "sweep"
    directory.mkdir()
    rows = {name: SweepRow() for name in LOWEST}
    optimum_sweep = Sweep(["x.gin"], {}, rows, {"LEARNING_RATE": RATES}, [0, 1], "bits_per_byte")
    Results(directory).write_sweep(optimum_sweep)
    for run in optimum_sweep.runs():
        assert run.seed is not None
        # A fifth of an octave from the optimum of the row, on either side.
        lowest = LOWEST[run.row.split(",")[0]] * 2 ** (0.2 * (2 * run.seed - 1))
        loss = 2.0 + 0.1 * math.log2(float(run.values["LEARNING_RATE"]) / lowest) ** 2
        metrics = {"bits_per_byte": loss, "loss": 5.0 - loss}
        result = RunResult(run.name, run.row, run.seed, run.values, "finished", metrics=metrics)
        Results(directory / "results").write(result)
    return directory


def test_a_line_has_the_optimum_its_error_and_what_that_of_the_first_row_costs(
    optimum_sweep: pathlib.Path,
) -> None:
    process = mtfrun_here("table", "--fit=optimum", str(optimum_sweep))
    assert process.returncode == 0, process.stderr.decode()
    heading, narrow, wide = (line.split() for line in process.stdout.decode().splitlines())
    assert heading[:4] == ["row", "LEARNING_RATE", "error", "bits_per_byte"]
    # The standard error of the two seeds is 0.2 octaves, the factor 2 ** 0.2; the minimum of their
    # mean is 0.1 * 0.2 ** 2 above 2.
    assert narrow == ["narrow", "0.04", "x/", "1.15", "2.0040", "2.0040"]
    # Half an octave from the optimum: 0.1 / 2 ** 2 more.
    assert wide == ["wide", "0.02828", "x/", "1.15", "2.0040", "2.0290"]


def test_a_best_value_at_the_end_is_not_an_optimum_and_a_picture_is_written(
    optimum_sweep: pathlib.Path,
) -> None:
    picture = optimum_sweep / "x.svg"
    flags = ["--fit=optimum", "--metric=loss", f"--picture={picture}"]
    process = mtfrun_here("table", str(optimum_sweep), *flags)
    (line,) = [x for x in process.stdout.decode().splitlines() if x.startswith("narrow ")]
    assert "not between 0.0125, 0.2" in line
    svg = picture.read_text()
    assert ">narrow</text>" in svg and ">wide</text>" in svg


@pytest.fixture
def table_sweep(tmp_path: pathlib.Path) -> pathlib.Path:
    write_sweep(tmp_path / "sweep", {"baseline": [1.0, 3.0], "new": [0.5, 2.501]})
    return tmp_path / "sweep"


def test_a_table_marks_significant_differences(table_sweep: pathlib.Path) -> None:
    process = mtfrun_here("table", str(table_sweep))
    assert process.returncode == 0, process.stderr.decode()
    heading, first, second, *notes = process.stdout.decode().splitlines()
    assert heading.split()[:4] == ["row", "loss", "↓", "difference"]
    assert first.split()[:5] == ["baseline", "2", "±", "13", "-"]
    assert "-0.4995 ± 0.0064*" in second
    assert notes[-1].endswith("those with q < 0.05 are marked by *.")


def test_a_page_is_not_made_of_runs_of_a_tree_with_changes(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, {"baseline": [1.0, 3.0]}, git="0123456789ab, with changes")
    line = error_line(mtfrun_here("table", str(tmp_path), "--format=md"))
    assert "runs are of git 0123456789ab, with changes, so that nobody can repeat them" in line
    draft = mtfrun_here("table", str(tmp_path), "--format=md", "--allow_changes")
    assert "git 0123456789ab, with changes." in draft.stdout.decode()
    assert mtfrun_here("table", str(tmp_path)).returncode == 0


def test_a_page_has_a_title_and_its_command(
    table_sweep: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = [f"--output={tmp_path / 'a.md'}", "--format=md"]
    assert mtfrun_here("table", str(table_sweep), *output).returncode == 0
    page = (tmp_path / "a.md").read_text()
    assert page.startswith("# sweep\n\n    mtfrun table ")
    printed = mtfrun_here(
        "table", str(table_sweep), "--format=md", "--title=Is it?"
    ).stdout.decode()
    assert printed.startswith("# Is it?\n") and printed.splitlines()[4:] == page.splitlines()[4:]


def test_bad_input_is_one_line_in_table(table_sweep: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert "table needs the directory of one sweep" in error_line(mtfrun_here("table"))
    write_sweep(tmp_path / "failed", {"baseline": ["loss is NaN"], "new": [None]})
    line = error_line(mtfrun_here("table", str(tmp_path / "failed"), "--metric=losss"))
    assert "--metric=losss: no evaluation has it; there are none yet" in line
    line = error_line(mtfrun_here("table", str(table_sweep), "--title=x"))
    assert "--title is of md, latex, html: leave it out" in line
    line = error_line(mtfrun_here("table", str(table_sweep), "--allow_changes"))
    assert "--allow_changes is of md, latex, html: leave it out" in line
