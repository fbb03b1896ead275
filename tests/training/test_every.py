"""Tests of mtfrun.training.hooks.actions.Every; the clock is replaced, so nothing sleeps."""

from __future__ import annotations

import pytest

from mtfrun.training.hooks.actions import Every


def test_steps_are_due_when_a_multiple_is_reached_or_passed() -> None:
    every = Every(steps=10)
    assert not every.is_due(10, 19)
    assert every.is_due(19, 20)
    assert every.is_due(25, 45)


def test_the_next_step_is_the_next_multiple() -> None:
    every = Every(steps=10)
    assert [every.next_step(step) for step in (0, 9, 10)] == [10, 10, 20]
    assert Every(secs=1.0).next_step(5) is None


def test_seconds_count_from_the_last_time_that_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("mtfrun.training.clock.seconds", lambda: now[0])
    every = Every(steps=100, secs=30.0)
    now[0] = 29.0
    assert not every.is_due(1, 2)
    now[0] = 31.0
    assert every.is_due(2, 3)
    now[0] = 50.0
    assert every.is_due(99, 100)  # by steps, from where the seconds count
    now[0] = 70.0
    assert not every.is_due(101, 102)
    now[0] = 80.0
    assert every.is_due(102, 103)


def test_nothing_is_ever_due_without_steps_and_seconds() -> None:
    assert not Every().is_due(0, 10**9)
