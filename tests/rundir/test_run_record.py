"""The record of a run's state and evaluations."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import pytest

from mtfrun.files import RunDirError
from mtfrun.metrics.catalogue import LOWEST, MODES, best_of
from mtfrun.rundir import RunCost, RunRecord, Status


def test_a_status_is_read_as_it_was_written(tmp_path: pathlib.Path) -> None:
    record = RunRecord(tmp_path)
    assert record.status() is None
    status = Status(
        "stopped", 3, 10, {"loss": 2.5}, 1200.0, "tok", None, time=1.5, cost=RunCost(parameters=3)
    )
    record.write_status(status)
    assert record.status() == status
    record.write_status(dataclasses.replace(status, state="failed", error="loss is not finite"))
    read = record.status()
    assert read is not None and (read.state, read.error) == ("failed", "loss is not finite")


def test_numbers_that_are_not_finite_come_back_as_nan(tmp_path: pathlib.Path) -> None:
    record = RunRecord(tmp_path)
    record.write_status(Status("running", 1, 2, {"loss": math.inf, "accuracy": 0.5}))
    record.write_metrics({1: {"eval/loss": math.nan}})
    status = record.status()
    assert status is not None and math.isnan(status.values["loss"])
    assert status.values["accuracy"] == 0.5
    assert math.isnan(record.evaluations()[0].metrics["loss"])
    for name in ("status.json", "metrics.jsonl"):
        assert "NaN" not in (tmp_path / name).read_text()


STATUS = '{"state": "running", "step": 1, "train_steps": 2, "values": {}, %s}'


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[" * 100_000, '{"state": "running"}'),
        '{"state": "x", "step": 1, "values": {}}',
        *(STATUS % '"time": 1e300', STATUS % '"time": "now"', STATUS % '"time": 1e999'),
        *(STATUS % '"speed": 1e300', STATUS % '"speed": []', STATUS % '"unit": 3'),
        *(STATUS % '"parameters": "many"', STATUS % '"seconds": -1'),
        *(STATUS % '"error": {}', STATUS % '"step": 2'),
        STATUS.replace("1", "9" * 400) % '"time": 1',
    ],
)
def test_a_damaged_status_is_none(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "status.json").write_text(text)
    assert RunRecord(tmp_path).status() is None


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", "1", "[" * 100_000, '{"loss": 2.0}'),
        *('{"step": 1e999}', '{"step": []}', '{"step": -1}'),
    ],
)
def test_damaged_measurements_are_an_error_and_no_evaluations(
    line: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "eval/loss": 2.0}}\n{line}\n')
    assert RunRecord(tmp_path).evaluations() == []
    with pytest.raises(RunDirError, match=r"metrics.jsonl is damaged: .*; remove it"):
        RunRecord(tmp_path).metrics()


def test_evaluations_are_the_measurements_of_evaluations(tmp_path: pathlib.Path) -> None:
    record = RunRecord(tmp_path)
    assert record.evaluations() == [] and record.metrics() == {}
    by_step = {20: {"eval/loss": 2.0, "other/loss": 1.0}, 10: {"eval/loss": 3.0}}
    by_step[5] = {"other/x": 1.0}
    record.write_metrics(by_step)
    assert record.metrics() == by_step
    assert record.evaluations() == [(10, {"loss": 3.0}), (20, {"loss": 2.0})]


def test_the_best_is_the_first_of_the_finite_ones(tmp_path: pathlib.Path) -> None:
    record = RunRecord(tmp_path)
    values = [2.0, math.nan, 1.0, 1.0, 3.0]
    record.write_metrics({step: {"eval/loss": x} for step, x in enumerate(values)})
    evaluations = record.evaluations()
    lowest, highest = (best_of(evaluations, lambda e: e.value("loss"), mode) for mode in MODES)
    assert lowest is not None and highest is not None
    assert (lowest.step, highest.step) == (2, 4)
    assert best_of(evaluations, lambda e: e.value("bleu"), LOWEST) is None


def test_a_record_that_cannot_be_written_is_a_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = RunRecord(tmp_path / "file" / "run")
    (tmp_path / "file").write_text("")
    record.write_metrics({1: {}})
    record.write_status(Status("running", 1, 2))
    assert len(caplog.records) == 1
    assert "cannot record the state of the run" in caplog.text
