"""Tests of mtfrun.training.throughput: the length of visits, and the speed."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.data import Infeed
from mtfrun.training import TrainOptions
from mtfrun.training.throughput import Throughput
from tests.training.toy_run import curve, quick_train


def test_the_first_visits_have_one_step_and_later_ones_as_many_as_fit() -> None:
    throughput = Throughput(5.0, "perf/tokens_per_sec")
    assert throughput.steps(100) == 1
    throughput.add(1, 10.0, 60.0)  # compiles
    assert throughput.steps(100) == 1
    throughput.add(1, 10.0, 0.5)
    assert throughput.steps(100) == 10 and throughput.steps(7) == 7
    throughput.add(10, 100.0, 20.0)
    assert throughput.steps(100) == 2
    throughput.add(2, 20.0, 42.0)
    assert throughput.steps(100) == 1


def test_the_speed_leaves_out_the_visit_that_compiles() -> None:
    throughput = Throughput(5.0, "perf/tokens_per_sec")
    throughput.add(1, 10.0, 60.0)
    assert _speed(throughput) == (1 / 60, 1 / 6)
    throughput.add(1, 10.0, 0.5)
    throughput.add(4, 40.0, 2.0)
    assert _speed(throughput) == (2.0, 20.0)
    throughput.start_window()
    throughput.add(1, 10.0, 1.0)
    assert _speed(throughput) == (1.0, 10.0)


def _speed(throughput: Throughput) -> tuple[float, float]:
    rates = throughput.rates()
    return rates["perf/steps_per_sec"], rates["perf/tokens_per_sec"]


def test_the_share_of_waiting_is_that_since_the_last_point() -> None:
    throughput = Throughput(5.0, "perf/tokens_per_sec")
    throughput.add(1, 10.0, 60.0, 30.0)  # compiles
    throughput.add(1, 10.0, 0.5, 0.0)
    throughput.add(4, 40.0, 1.5, 0.5)
    assert throughput.rates()["perf/data_wait_fraction"] == 0.25
    throughput.start_window()
    throughput.add(4, 40.0, 2.0, 0.0)
    assert throughput.rates()["perf/data_wait_fraction"] == 0.0


def test_visits_last_five_seconds_at_most_and_points_do_not_move(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    visits: list[int] = []
    original = Infeed.next

    def two_seconds_a_step(self: Infeed, steps: int, capacity: int | None = None) -> object:
        now[0] += 2.0 * steps + 30.0 * (not visits)
        visits.append(steps)
        return original(self, steps, capacity)

    monkeypatch.setattr(Infeed, "next", two_seconds_a_step)
    options = TrainOptions(train_steps=13, iterations_per_loop=8, log_every_steps=4)
    quick_train(str(tmp_path), options, clock=lambda: now[0])
    assert visits == [1, 1, 2, 2, 2, 2, 2, 1]
    # The point at 4 leaves out the 32 seconds of the first step.
    assert curve(str(tmp_path), "perf/steps_per_sec") == {4: 0.5, 8: 0.5, 12: 0.5, 13: 0.5}


def test_quick_steps_fill_a_visit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits: list[int] = []
    original = Infeed.next

    def recorded(self: Infeed, steps: int, capacity: int | None = None) -> object:
        visits.append(steps)
        return original(self, steps, capacity)

    monkeypatch.setattr(Infeed, "next", recorded)
    options = TrainOptions(train_steps=20, iterations_per_loop=6, log_every_steps=6)
    quick_train(str(tmp_path), options, clock=lambda: 0.0)
    assert visits == [1, 1, 4, 6, 6, 2]
