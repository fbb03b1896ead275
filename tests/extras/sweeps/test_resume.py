"""Which runs of a sweep are trained, and which count as done."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.result import (
    Ending,
    Results,
    ResultState,
    RunResult,
    budget_text,
    result_of,
)
from mtfrun.extras.sweeps.resume import PlannedRun, SweepRecords
from mtfrun.extras.sweeps.sweep import Sweep, SweepRow
from mtfrun.rundir import RunRecord, Status
from mtfrun.rundir.run_record import RunCost

SWEEP = Sweep(["runs/quickstart.gin"], grid={"D_FF": ["32", "64"]}, max_minutes=4)


def _planned(directory: pathlib.Path, sweep: Sweep = SWEEP) -> PlannedRun:
    """Returns the first run; it is in `directory/run`, and its results are in `directory`."""
    records = SweepRecords(sweep, directory, Results(directory / "results"), [])
    return records.runs(sweep.runs())[0]


def _write(directory: pathlib.Path, state: ResultState, error: str = "") -> None:
    planned = _planned(directory)
    name, configuration = planned.run.name, planned.configuration
    result = RunResult(name, "", 0, {}, state, error, configuration=configuration)
    Results(directory / "results").write(result)


@pytest.mark.parametrize(
    ("state", "error", "is_done"),
    [
        ("finished", "", True),
        ("failed", "the loss is not finite", False),
        ("killed", "killed by signal 9", False),
        ("stopped", "stopped by a signal", False),
        ("stopped", budget_text(4), True),
        ("stopped", budget_text(2), False),  # the budget has grown since
    ],
)
def test_runs_without_a_whole_result_are_trained_again(
    state: ResultState, error: str, *, is_done: bool, tmp_path: pathlib.Path
) -> None:
    assert not _planned(tmp_path).is_done
    _write(tmp_path, state, error)
    assert _planned(tmp_path).is_done == is_done


def test_a_run_that_has_ended_after_its_sweep_is_not_trained_again(tmp_path: pathlib.Path) -> None:
    record = RunRecord(tmp_path / "D_FF=32")
    record.write_status(Status("stopped", 3, 9, cost=RunCost(seconds=60.0)))
    planned = _planned(tmp_path)
    assert not planned.is_done and planned.minutes == 3.0
    record.write_status(Status("stopped", 5, 9, cost=RunCost(seconds=240.0)))
    planned = _planned(tmp_path)
    assert planned.is_new
    assert (planned.result.state, planned.result.error) == ("stopped", budget_text(4))
    record.write_status(Status("finished", 9, 9))
    record.write_metrics({9: {"eval/loss": 2.0}})
    _write(tmp_path, "killed", "killed by signal 9")
    planned = _planned(tmp_path)
    assert planned.is_new
    assert planned.result.state == "finished" and planned.result.metrics == {"loss": 2.0}


def test_a_result_of_other_settings_is_refused_until_it_is_accepted(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, "finished")
    changed = dataclasses.replace(SWEEP, bindings={"NUM_LAYERS": "7"})
    planned = _planned(tmp_path, changed)
    records = SweepRecords(changed, tmp_path, Results(tmp_path / "results"), [])
    with pytest.raises(InputError, match=r"results of other settings: D_FF=32.json: the gin files"):
        records.check_settings([planned])
    records.check_settings([_planned(tmp_path)])
    records.accept_settings([planned])
    records.check_settings([_planned(tmp_path, changed)])


def test_a_row_can_be_corrected_until_a_run_of_it_has_taken_a_step(tmp_path: pathlib.Path) -> None:
    rows = {"baseline": SweepRow(), "wide": SweepRow(bindings={"D_FF": "6"})}
    former = Sweep(["runs/quickstart.gin"], rows=rows, seeds=[0, 1])
    corrected = {**rows, "wide": SweepRow(bindings={"D_FF": "64"})}
    command = dataclasses.replace(former, rows=corrected)
    records = SweepRecords(former, tmp_path, Results(tmp_path / "results"), [])
    wide = former.runs()[2]
    (refused,) = records.runs([wide])
    failed = RunResult(
        wide.name, wide.row, 0, {}, "failed", "D_FF = 6", configuration=refused.configuration
    )
    records.results.write(failed)
    new_records = dataclasses.replace(records, sweep=command)
    assert new_records.continue_from(former, tmp_path).sweep.rows == corrected
    new_records.check_settings(new_records.runs(command.runs()))
    RunRecord(tmp_path / wide.name).write_status(Status("stopped", 3, 9))
    with pytest.raises(InputError, match="row wide: D_FF 6 -> 64"):
        new_records.continue_from(former, tmp_path)


def test_a_metric_that_a_finished_run_lacks_is_an_error(tmp_path: pathlib.Path) -> None:
    sweep = dataclasses.replace(SWEEP, metric="los")
    records = SweepRecords(sweep, tmp_path, Results(tmp_path), [])
    with pytest.raises(InputError, match=r"the metric los: no .*, did you mean 'loss'\?"):
        records.metric([{"loss": 2.0}])
    assert records.metric([]) == "los"


def test_rows_of_the_same_settings_are_found(tmp_path: pathlib.Path) -> None:
    rows = {name: SweepRow([], values) for name, values in (("a", {}), ("b", {"D_FF": "512"}))}
    files = ["defaults.gin", "models/lm_tiny.gin"]
    records = SweepRecords(Sweep(files, rows=rows, seeds=[0, 1]), tmp_path, Results(tmp_path), [])
    # As in lm_tiny.gin.
    assert records.equal_rows(records.runs(records.sweep.runs())) == [("a", "b")]
    rows = {**rows, "b": SweepRow([], {"D_FF": "64"})}
    records = dataclasses.replace(records, sweep=dataclasses.replace(records.sweep, rows=rows))
    assert records.equal_rows(records.runs(records.sweep.runs())) == []


def test_the_table_tells_metrics_of_earlier_steps_from_final_ones(tmp_path: pathlib.Path) -> None:
    sweep = Sweep(["runs/quickstart.gin"], grid={"D_FF": ["32", "64", "128"]})
    records = SweepRecords(sweep, tmp_path, Results(tmp_path), [])
    ends: list[tuple[ResultState, int, dict[int, float]]] = [
        ("finished", 300, {200: 2.0, 300: 1.5}),
        ("stopped", 300, {200: 2.5}),
        ("failed", 3, {0: 1.0}),
    ]
    for run, (state, step, evaluations) in zip(sweep.runs(), ends, strict=True):
        last = {"loss": evaluations[max(evaluations)]}
        result = RunResult(
            *(run.name, run.row, 0, run.values, state),
            step=step,
            metrics=last,
            evaluations=evaluations,
        )
        Results(tmp_path).write(result)
    lines = records.table(records.runs(sweep.runs()), "loss", None)
    heading, *rows = [line.split() for line in lines]
    assert heading == ["D_FF", "state", "step", "evaluated", "at", "loss"]
    assert rows == [
        ["32", "finished", "300", "300", "1.5000*"],
        ["64", "stopped", "300", "200", "2.5000"],
        ["128", "failed", "3", "-", "-"],
    ]


def test_a_stop_by_the_budget_and_by_a_signal_differ(tmp_path: pathlib.Path) -> None:
    RunRecord(tmp_path / "run").write_status(Status("stopped", 5, 9))
    run = SWEEP.runs()[0]
    errors = [
        result_of(SWEEP, run, tmp_path / "run", "", ending).error
        for ending in [
            *(Ending(0), Ending(143, signal=15), Ending(-15, signal=15)),
            Ending(143, signal=15, reason="pruned at step 5"),
        ]
    ]
    saved = "stopped by a signal, saved at step 5"
    assert errors == [budget_text(4), saved, saved, "pruned at step 5"]
