"""Tests of mtfrun.api.caching_progress."""

from __future__ import annotations

import io
import sys

import pytest

from mtfrun.api.caching_progress import caching_progress
from mtfrun.data.cache_progress import Building, present_progress


def _shown(buildings: list[tuple[float, Building]], stream: io.StringIO) -> str:
    """Returns what is printed while caches are at each state at a time in seconds."""
    now = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        with caching_progress(lambda: now[0]):
            show = present_progress()
            assert show is not None
            for now[0], building in buildings:
                show(building)
    assert present_progress() is None
    return stream.getvalue()


def _building(megabytes: float, expected: float | None = None, split: str = "train") -> Building:
    size = round(megabytes * 1e6)
    total = None if expected is None else round(expected * 1e6)
    return Building("wmt", split, size // 100, size, total)


def test_a_quick_build_prints_nothing() -> None:
    assert _shown([(0.0, _building(1.0)), (9.0, _building(9.0))], io.StringIO()) == ""


def test_a_line_every_ten_seconds_says_how_far_and_when_it_ends() -> None:
    states = [(float(secs), _building(secs * 2.0, 100.0)) for secs in range(0, 21, 2)]
    states.append((31.0, _building(1.0, None, "validation")))
    states.append((42.0, _building(12.0, None, "validation")))
    assert _shown(states, io.StringIO()).splitlines() == [
        "caching wmt train: 200,000 examples, 20.0 of 100.0 MB  eta 40 s",
        "caching wmt train: 400,000 examples, 40.0 of 100.0 MB  eta 30 s",
        "caching wmt validation: 120,000 examples, 12.0 MB",
    ]


def test_a_terminal_has_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = _shown([(0.0, _building(1.0, 4.0)), (1.0, _building(2.0, 4.0))], Terminal())
    assert "caching wmt train" in shown and "4.00M" in shown
    assert shown.rstrip(" \r").endswith("B/s]") or not shown.split("\r")[-1].strip()
