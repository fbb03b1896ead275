"""Training ends early, after some hours, or when a metric does not improve."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import pytest

from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory
from mtfrun.training import (
    Action,
    CheckpointOptions,
    EarlyStopping,
    MaxHours,
    TrainOptions,
    TrainResult,
)
from tests.training.test_keeping import AddingMetrics
from tests.training.toy_run import quick_train

VALUES = {2: 3.0, 4: 2.0, 6: 2.0, 8: 1.99, 10: 2.5, 12: 2.5, 14: 2.5}


def _train(
    model_dir: pathlib.Path,
    train_steps: int,
    actions: Sequence[Action],
    values: Mapping[int, float] = VALUES,
) -> TrainResult:
    options = TrainOptions(
        train_steps, iterations_per_loop=1, checkpoints=CheckpointOptions(every_steps=3)
    )
    _, result = quick_train(str(model_dir), options, actions=[AddingMetrics(values), *actions])
    return result


@pytest.mark.parametrize(
    ("stopping", "last"),
    [
        pytest.param(EarlyStopping(patience=1), 6, marks=pytest.mark.slow),
        pytest.param(EarlyStopping(patience=2), 12, marks=pytest.mark.slow),
        (EarlyStopping(patience=2, min_delta=0.1), 8),
        (EarlyStopping(patience=2, mode="highest"), 6),
        pytest.param(EarlyStopping(patience=9), 20, marks=pytest.mark.slow),
    ],
)
def test_training_ends_after_so_many_values_that_are_not_better(
    tmp_path: pathlib.Path,
    stopping: EarlyStopping,
    last: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = _train(tmp_path, 20, [stopping])
    assert (result.step, result.signal) == (last, None)
    assert RunDirectory(tmp_path).checkpoints().latest() == last
    ended = f"ending at step {last}: eval/loss was best at step"
    assert (ended in capsys.readouterr().err) == (last < 20)


def test_values_of_earlier_processes_count_and_a_run_that_has_ended_stays_so(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(tmp_path, 11, [EarlyStopping(patience=2)])
    # From step 11: of steps 8 and 10 it knows by the file.
    assert _train(tmp_path, 20, [EarlyStopping(patience=2)]).step == 12
    capsys.readouterr()
    assert _train(tmp_path, 20, [EarlyStopping(patience=2)]).step == 12
    assert "already ended at step 12: eval/loss was best at step 8" in capsys.readouterr().err
    assert _train(tmp_path, 20, [EarlyStopping(patience=3)]).step == 14


def test_values_that_are_never_finite_end_training(tmp_path: pathlib.Path) -> None:
    values = {2: float("nan"), 4: float("inf"), 6: 1.0}
    assert _train(tmp_path, 20, [EarlyStopping(patience=2)], values).step == 4


def test_an_unknown_metric_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        InputError, match=r"EarlyStopping\.metric='eval/bleu' is not one of the metrics"
    ):
        _train(tmp_path, 20, [EarlyStopping(metric="eval/bleu")])


def test_settings_are_checked() -> None:
    for settings in ({"patience": 0}, {"min_delta": -1.0}, {"mode": "best"}):
        with pytest.raises(InputError, match="EarlyStopping"):
            EarlyStopping(**settings)
    with pytest.raises(InputError, match="max_hours is 0"):
        MaxHours(0)


def test_after_so_many_hours_training_saves_and_ends(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = iter(range(10_000))
    options = TrainOptions(1000, checkpoints=CheckpointOptions(every_steps=None))
    _, result = quick_train(
        str(tmp_path), options, actions=[MaxHours(20 / 3600)], clock=lambda: float(next(ticks))
    )
    assert 0 < result.step < 1000 and result.signal is None
    assert RunDirectory(tmp_path).checkpoints().steps() == [result.step]
    line = f"ending at step {result.step}: 0.00555556 hours are over; the same command resumes"
    assert line in capsys.readouterr().err
