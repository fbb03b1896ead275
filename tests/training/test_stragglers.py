"""A process that slows down the run is reported."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mtfrun import processes
from mtfrun.training.hooks import stragglers
from mtfrun.training.hooks.stragglers import Stragglers

WINDOW_SECS = 4.0


class _Run:
    """Two processes, of which this is the first, with windows of 10 steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, own: float, other: list[Any]) -> None:
        self.secs, self.waited = 0.0, 0.0
        self._own = own
        monkeypatch.setattr(processes, "count", lambda: 2)
        monkeypatch.setattr(processes, "agree", lambda value, _: value)
        monkeypatch.setattr(processes, "waited_secs", lambda: self.waited)
        monkeypatch.setattr(processes, "gather", lambda value, _: [value, [*other, "there"]])
        monkeypatch.setattr(stragglers, "products_per_sec", lambda *_: 1e9)
        monkeypatch.setattr("mtfrun.training.clock.seconds", lambda: self.secs)
        self._stragglers = Stragglers("CPU:0")

    def window(self, secs: float = WINDOW_SECS) -> list[str]:
        """Returns the lines after a window, in which the process waits for a second."""
        self.secs += secs
        self.waited += 1.0
        self._stragglers.add(10, secs - self._own - 1.0)
        return self._stragglers.find()


@pytest.mark.parametrize(
    ("own", "other", "line"),
    [
        (0.1, [2.1, 1e9], r"process 1 of 2 \(there\) is slow: a step takes 210 ms .* 10 ms elsew"),
        (2.1, [0.1, 1e9], r"process 0 of 2 \(pid .*\) is slow: a step takes 210 ms there"),
        (0.1, [0.1, 0.4e9], r"process 1 of 2 .* takes 2\.5 times as long as the fastest one"),
    ],
    ids=["data of another", "data of this one", "a device"],
)
def test_a_slow_process_is_named_once_after_some_windows(
    own: float, other: list[Any], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _Run(monkeypatch, own=own, other=other)
    assert [run.window() for _ in range(2)] == [[], []]
    (named,) = run.window()
    assert re.search(line, named), named
    assert run.window() == []


def test_processes_of_about_the_same_speed_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _Run(monkeypatch, own=0.5, other=[1.2, 0.7e9])
    assert [run.window() for _ in range(5)] == [[]] * 5


def test_a_short_window_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _Run(monkeypatch, own=0.1, other=[5.0, 1e9])
    assert run.window(1.9) == []
    assert [len(run.window()) for _ in range(3)] == [0, 0, 1]


def test_a_process_alone_is_not_slow() -> None:
    assert Stragglers("CPU:0").find() == []
