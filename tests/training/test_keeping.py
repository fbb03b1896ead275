"""Which checkpoints are kept: the newest, one of every so many hours, and the best."""

from __future__ import annotations

import json
import pathlib
import types
from collections.abc import Mapping

import pytest

from mtfrun.checkpoints import Best
from mtfrun.errors import InputError
from mtfrun.files import RunDirError
from mtfrun.rundir import RunDirectory
from mtfrun.training import Action, ActionContext, CheckpointOptions, TrainOptions
from tests.training.toy_run import quick_train


class AddingMetrics(Action):
    """Reports a value at some steps, as an evaluation does."""

    def __init__(self, values: Mapping[int, float], name: str = "eval/loss"):
        self.every_steps = 1
        self.at_start = 0 in values
        self._values = values
        self._name = name

    def __call__(self, context: ActionContext) -> None:
        if context.step in self._values:
            value = self._values[context.step]
            context.metrics.add(context.step, {self._name: value, "eval/other": 1.0})


def _train(
    model_dir: pathlib.Path, train_steps: int, values: Mapping[int, float], **options: object
) -> list[int]:
    """Trains with a checkpoint every 2 steps and returns the steps of those that are left."""
    checkpoints = CheckpointOptions(**{"every_steps": 2, "max_to_keep": 2, **options})  # type: ignore[arg-type]
    quick_train(
        str(model_dir),
        TrainOptions(train_steps, iterations_per_loop=1, checkpoints=checkpoints),
        actions=[AddingMetrics(values)],
    )
    return RunDirectory(model_dir).checkpoints().steps()


@pytest.mark.parametrize("asynchronous", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_best_checkpoint_is_kept_and_named(tmp_path: pathlib.Path, asynchronous: bool) -> None:
    """Also a step that no checkpoint was due at, and after a resumption."""
    options = {"best_metric": "eval/loss", "asynchronous": asynchronous}
    checkpoints = RunDirectory(tmp_path).checkpoints()
    values = {2: 3.0, 5: 2.0, 8: 2.5, 12: float("nan")}
    assert _train(tmp_path, 10, values, **options) == [5, 8, 10]
    assert checkpoints.best() == Best(5, "eval/loss", 2.0)
    assert _train(tmp_path, 14, values, **options) == [5, 12, 14]
    assert checkpoints.named_step("best") == 5
    assert _train(tmp_path, 18, {16: 1.0}, **options) == [16, 18]
    assert json.loads((tmp_path / "checkpoints/best.json").read_text())["step"] == 16
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 5, 8, 12, 16]
    assert json.loads(lines[3]) == {"step": 12, "eval/loss": None, "eval/other": 1.0}


def test_what_a_killed_save_has_not_deleted_goes_at_the_next_start(tmp_path: pathlib.Path) -> None:
    """Also of a finished run, which saves no more."""
    assert _train(tmp_path, 6, {}, max_to_keep=3) == [2, 4, 6]
    assert _train(tmp_path, 6, {}, max_to_keep=2) == [4, 6]


@pytest.mark.slow
def test_the_highest_value_may_be_the_best(tmp_path: pathlib.Path) -> None:
    options = {"best_metric": "eval/loss", "best_mode": "highest"}
    assert _train(tmp_path, 8, {2: 3.0, 4: 2.0}, **options) == [2, 6, 8]


@pytest.mark.parametrize("step", [0, 2])
def test_an_unknown_metric_is_an_error_that_names_the_others(
    tmp_path: pathlib.Path, step: int
) -> None:
    with pytest.raises(
        InputError, match=r"best_metric='eval/los' is not one of the metrics.*'eval/loss'"
    ):
        _train(tmp_path, 8, {step: 3.0}, best_metric="eval/los")
    assert RunDirectory(tmp_path).checkpoints().steps() == ([2] if step else [])


@pytest.mark.slow
def test_one_checkpoint_of_every_hour_is_kept_over_resumptions(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1e9]

    def half_an_hour_later() -> float:
        now[0] += 1800.0
        return now[0]

    # Saves at half past and at the full hours; the run begins at the first half.
    clock = types.SimpleNamespace(time=half_an_hour_later)
    monkeypatch.setattr("mtfrun.training.hooks.saving.time", clock)
    assert _train(tmp_path, 10, {}, keep_every_hours=1.0) == [4, 8, 10]
    assert _train(tmp_path, 18, {}, keep_every_hours=1.0)[:4] == [4, 8, 12, 16]


def test_a_damaged_record_of_the_best_is_one_line(tmp_path: pathlib.Path) -> None:
    _train(tmp_path, 4, {2: 3.0}, best_metric="eval/loss")
    checkpoints = RunDirectory(tmp_path).checkpoints()
    record = tmp_path / "checkpoints/best.json"
    forged = (
        *("", "{", "[]", "null", '{"step": "2"}', "[" * 100_000),
        '{"step": -1, "metric": "x", "value": 1.0, "mode": "lowest"}',
        '{"step": 2, "metric": "x", "value": NaN, "mode": "lowest"}',
    )
    for text in forged:
        record.write_text(text)
        with pytest.raises(RunDirError, match=r"best\.json is damaged"):
            checkpoints.named_step("best")
    record.unlink()
    with pytest.raises(RunDirError, match="has no best checkpoint"):
        checkpoints.named_step("best")
    record.write_text('{"step": 77, "metric": "x", "value": 1.0, "mode": "lowest"}')
    with pytest.raises(RunDirError, match="has no best checkpoint"):
        checkpoints.named_step("best")
