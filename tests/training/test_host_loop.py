"""The number of steps of a host loop."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.training import TrainOptions
from tests.training.toy_run import curve, quick_train, record_host_loops


def test_the_first_visits_have_one_step_and_later_ones_as_many_as_fit(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    secs = iter([60.0, 0.5, 20.0, 42.0, 1.0])  # the first visit compiles

    def pass_seconds(steps: int) -> None:
        now[0] += next(secs)

    visits = record_host_loops(monkeypatch, pass_seconds)
    quick_train(str(tmp_path), TrainOptions(train_steps=15), clock=lambda: now[0])
    assert visits == [1, 1, 10, 2, 1]


def test_visits_last_five_seconds_at_most_and_points_do_not_move(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def pass_two_seconds_a_step(steps: int) -> None:
        now[0] += 2.0 * steps + 30.0 * (not visits)

    visits = record_host_loops(monkeypatch, pass_two_seconds_a_step)
    options = TrainOptions(train_steps=13, iterations_per_loop=8, log_every_steps=4)
    quick_train(str(tmp_path), options, clock=lambda: now[0])
    assert visits == [1, 1, 2, 2, 2, 2, 2, 1]
    # The point at 4 leaves out the 32 seconds of the first step.
    assert curve(str(tmp_path), "perf/steps_per_sec") == {4: 0.5, 8: 0.5, 12: 0.5, 13: 0.5}


def test_quick_steps_fill_a_visit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits = record_host_loops(monkeypatch)
    options = TrainOptions(train_steps=20, iterations_per_loop=6, log_every_steps=6)
    quick_train(str(tmp_path), options, clock=lambda: 0.0)
    assert visits == [1, 1, 4, 6, 6, 2]
