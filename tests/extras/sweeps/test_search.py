"""Searches by Optuna: choices, pruning, resumption."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys

import pytest

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.result import Results, ResultState, RunResult, missing_result
from mtfrun.extras.sweeps.resume import SweepRecords
from mtfrun.extras.sweeps.search import Search
from mtfrun.extras.sweeps.sweep import Sweep, SweepRun
from mtfrun.rundir import RunRecord

SWEEP = Sweep(
    ["runs/quickstart.gin"],
    search={
        "LEARNING_RATE": "('log', 0.005, 0.2)",
        "D_FF": "('int', 64, 512)",
        "FeedForward.activation": "('choice', [@mtf.relu, None])",
        "Dropout.rate": "('linear', 0, 0.5)",
    },
)


def _records(directory: pathlib.Path, sweep: Sweep = SWEEP) -> SweepRecords:
    return SweepRecords(sweep, directory, Results(directory / "results"), [])


def _result(run: SweepRun) -> RunResult:
    """Returns the result of a run that is best at a rate of 0.02."""
    loss = abs(math.log(float(run.values["LEARNING_RATE"]) / 0.02))
    return RunResult(run.name, run.row, 0, run.values, "finished", metrics={"loss": loss})


@pytest.mark.parametrize("interruptions", [pytest.param({9}, marks=pytest.mark.slow), {0, 5}])
def test_a_search_that_is_resumed_makes_the_same_choices(
    interruptions: set[int], tmp_path: pathlib.Path
) -> None:
    chosen = []
    for folder, stops in (("whole", {9}), ("resumed", interruptions)):
        records = _records(tmp_path / folder)
        values: dict[str, dict[str, str]] = {}
        for last in sorted({*stops, 9}):
            search = Search(records, 10, jobs=1)
            for planned in search.runs():
                records.write_swept(missing_result(planned.run))
                values[planned.name] = dict(planned.run.values)
                if planned.name == f"trial-{last}" and last < 9:
                    break  # as by kill -9
                records.record(_result(planned.run))
        chosen.append(values)
        assert [run.name for run in search.all_runs()] == list(values)
    assert chosen[0] == chosen[1] and len(chosen[0]) == 10
    assert len({values["LEARNING_RATE"] for values in chosen[0].values()}) == 10
    activations = {values["FeedForward.activation"] for values in chosen[0].values()}
    assert activations == {"@mtf.relu", "None"}
    assert all(planned.is_done for planned in Search(records, 10, jobs=1).runs())
    assert set(search.best()) == set(SWEEP.search)


def test_results_of_another_search_are_refused(tmp_path: pathlib.Path) -> None:
    records = _records(tmp_path)
    (planned,) = Search(records, 1, jobs=1).runs()
    changes = {"LEARNING_RATE": "9.0", "D_FF": "x", "FeedForward.activation": "@mtf.swish"}
    for name, text in changes.items():
        values = {**planned.run.values, name: text}
        records.results.write(dataclasses.replace(_result(planned.run), values=values))
        with pytest.raises(InputError, match=r"trial-0 and its result are of another search"):
            next(Search(records, 2, jobs=1).runs())


def test_a_run_that_is_worse_than_the_median_is_pruned(tmp_path: pathlib.Path) -> None:
    records = _records(tmp_path)
    search = Search(records, 7, jobs=2)
    reasons = []
    losses = [1.0, 2.0, 3.0, 4.0, 5.0, 2.5, 9.0]
    for trained, loss in zip(search.runs(), losses, strict=True):
        records.write_swept(missing_result(trained.run))
        evaluations = {0: 99.0, 50: loss}
        record = RunRecord(trained.directory)
        record.write_metrics({step: {"eval/loss": x} for step, x in evaluations.items()})
        reasons.append(search.reason_to_stop(trained))
        assert reasons[-1] is not None or search.reason_to_stop(trained) is None
        state: ResultState = "finished" if reasons[-1] is None else "stopped"
        result = dataclasses.replace(_result(trained.run), state=state, error=reasons[-1] or "")
        records.results.write(
            dataclasses.replace(result, metrics={"loss": loss}, evaluations=evaluations)
        )
    assert reasons == [None] * 6 + ["pruned at step 50"]
    assert all(planned.is_done for planned in search.runs())


@pytest.mark.parametrize(
    "text", ["3", "('log', 0.5, 0.1)", "('log', 0, 1)", "('int', 1.5, 2)", "('choice', [])"]
)
def test_a_wrong_range_is_one_line(text: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"Sweep.search: X: .* range"):
        Search(_records(tmp_path, Sweep([], search={"X": text})), 3, jobs=1)


def test_a_search_needs_optuna(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"--search needs the package optuna .*mtfrun\[search\]"):
        Search(_records(tmp_path), 3, jobs=1)
