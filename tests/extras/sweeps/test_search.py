"""Searches by Optuna: choices, pruning, resumption."""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys

import pytest

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.plan import PlannedRun
from mtfrun.extras.sweeps.result import ResultState, RunResult
from mtfrun.extras.sweeps.search import STUDY, Search
from mtfrun.extras.sweeps.sweep import Sweep, SweepRun
from mtfrun.rundir import RunRecord

SWEEP = Sweep(
    ["runs/quickstart.gin"],
    search={
        "LEARNING_RATE": "('log', 0.005, 0.2)",
        "D_FF": "('int', 64, 512)",
        "X": "('choice', [@mtf.relu, None])",
        "DROPOUT": "('linear', 0, 0.5)",
    },
)


def _result(run: SweepRun) -> RunResult:
    """Returns the result of a run that is best at a rate of 0.02."""
    loss = abs(math.log(float(run.values["LEARNING_RATE"]) / 0.02))
    return RunResult(run.name, run.row, 0, run.values, "finished", metrics={"loss": loss})


@pytest.mark.parametrize("interruptions", [{9}, {0, 5}])
def test_a_search_that_is_resumed_makes_the_same_choices(
    interruptions: set[int], tmp_path: pathlib.Path
) -> None:
    chosen = []
    for folder, stops in (("whole", {9}), ("resumed", interruptions)):
        values: dict[str, dict[str, str]] = {}
        for last in sorted({*stops, 9}):
            search = Search(SWEEP, tmp_path / folder, 10, jobs=1)
            for run in search.runs():
                values[run.name] = dict(run.values)
                if run.name == f"trial-{last}" and last < 9:
                    break  # as by kill -9
                search.record(_result(run))
        chosen.append(values)
        assert [run.name for run in search.all_runs()] == list(values)
    assert chosen[0] == chosen[1] and len(chosen[0]) == 10
    assert len({values["LEARNING_RATE"] for values in chosen[0].values()}) == 10
    assert {values["X"] for values in chosen[0].values()} == {"@mtf.relu", "None"}
    assert set(search.best()) == set(SWEEP.search)


def test_a_damaged_study_is_refused_and_an_unfinished_line_removed(tmp_path: pathlib.Path) -> None:
    search = Search(SWEEP, tmp_path, 2, jobs=1)
    for run in search.runs():
        search.record(_result(run))
    study = tmp_path / STUDY
    lines = study.read_text().splitlines(keepends=True)
    study.write_text("".join(lines) + lines[0][:20])
    assert len(Search(SWEEP, tmp_path, 2, jobs=1).all_runs()) == 2
    assert all(map(json.loads, study.read_text().splitlines()))
    changes = {
        "LEARNING_RATE": "OTHER",
        '"values": [': '"values": ["x", ',
        '"param_value_internal": ': '"param_value_internal": 9',
    }
    for old, new in changes.items():
        study.write_text("".join(lines).replace(old, new))
        with pytest.raises(InputError, match=r"optuna.journal is not a study of Optuna"):
            Search(SWEEP, tmp_path, 2, jobs=1)


def test_a_run_that_is_worse_than_the_median_is_pruned(tmp_path: pathlib.Path) -> None:
    search = Search(SWEEP, tmp_path, 7, jobs=2)
    reasons = []
    for run, loss in zip(search.runs(), [1.0, 2.0, 3.0, 4.0, 5.0, 2.5, 9.0], strict=True):
        directory = tmp_path / run.name
        directory.mkdir()
        record = RunRecord(directory)
        record.write_metrics({0: {"eval/loss": 99.0}, 50: {"eval/loss": loss}})
        trained = PlannedRun(1, run, directory)
        reasons.append(search.reason_to_stop(trained))
        assert reasons[-1] is not None or search.reason_to_stop(trained) is None
        state: ResultState = "finished" if reasons[-1] is None else "stopped"
        result = RunResult(run.name, run.row, 0, {}, state, reasons[-1] or "")
        search.record(RunResult(**{**vars(result), "metrics": {"loss": loss}}))
    assert reasons == [None] * 6 + ["pruned at step 50"]
    assert not list(search.runs())


@pytest.mark.parametrize(
    "text", ["3", "('log', 0.5, 0.1)", "('log', 0, 1)", "('int', 1.5, 2)", "('choice', [])"]
)
def test_a_wrong_range_is_one_line(text: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"Sweep.search: X: .* range"):
        Search(Sweep([], search={"X": text}), tmp_path, 3, jobs=1)


def test_a_search_needs_optuna_and_its_study(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / STUDY
    for make in (
        lambda: study.write_text("no journal\n"),
        lambda: os.mkfifo(study),
        lambda: study.symlink_to(tmp_path / "elsewhere"),
    ):
        study.unlink(missing_ok=True)
        make()
        with pytest.raises(InputError, match=r"optuna.journal is not a study of Optuna"):
            Search(SWEEP, tmp_path, 3, jobs=1)
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"--search needs the package optuna .*mtfrun\[search\]"):
        Search(SWEEP, tmp_path, 3, jobs=1)
