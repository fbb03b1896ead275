"""The command `ladder`."""

from __future__ import annotations

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mtfrun.cli.commands import ladder
from mtfrun.tools.sweep import RunResult, Sweep
from mtfrun.tools.sweep.scaling_law import ScalingLaw
from mtfrun.tools.sweep.sweep import SweepRow
from tests.cli.command import ROOT, error_line, mtfrun_here

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
    sweep.write(directory)
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
        result.write(directory / "results" / f"{run.name}.json")
    return directory


def test_the_table_has_the_held_out_error_the_law_and_the_advice(sweep: pathlib.Path) -> None:
    # The command never imports TensorFlow, which a process of the tests may have done.
    program = (
        "import sys; from mtfrun.cli.commands import ladder; from mtfrun.cli.main import main; "
        "ladder._DRAWS = 10; "
        f"code = main(['ladder', {str(sweep)!r}, '--budget=1e14']); "
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


def test_json_has_the_law_and_the_advice_for_the_metric(
    sweep: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "_DRAWS", 10)
    output = sweep.parent / "law.svg"
    flags = ["--json", "--hold_out=0", "--metric=loss", f"--picture={output}"]
    process = mtfrun_here("ladder", str(sweep), *flags)
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
        (["DIR", "--hold_out=-1"], "--hold_out=-1 must be at least 0"),
        (["DIR", "--hold_out=2"], "those that are not held out have 2, 3 and 5: train more"),
        (["DIR", "--metric=perplexity"], "no evaluation has it; there are bits_per_byte, loss"),
        (["DIR/results"], "has no sweep.json"),
        ([], "ladder needs the directory of one sweep"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(
    sweep: pathlib.Path, flags: list[str], message: str
) -> None:
    words = [word.replace("DIR", str(sweep)) for word in flags]
    assert message in error_line(mtfrun_here("ladder", *words))
