"""Tests of the statistics of lengths."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.tools.data_viewer import statistics as module
from mtfrun.tools.data_viewer.statistics import bytes_of, histogram, statistics_lines


def test_counts_percentiles_and_what_is_cut() -> None:
    lines = list(statistics_lines("x", np.arange(1, 101), 5050, width=200, capacity=90))
    assert lines[:3] == [
        "  x: 100 texts, 5,050 tokens, 5,050 bytes, 1.00 bytes a token",
        "    tokens of a text: mean 50.5, 5%: 5, 25%: 25, 50%: 50, 75%: 75, 95%: 95, 99%: 99, "
        "longest 100",
        "    cut at 90 tokens: 10 texts (10.00%), 55 tokens (1.09%)",
    ]
    assert histogram(np.arange(1, 101)) == {
        (1, 1): 1,
        (2, 3): 2,
        (4, 7): 4,
        (8, 15): 8,
        (16, 31): 16,
        (32, 63): 32,
        (64, 127): 37,
    }


@pytest.mark.parametrize("lengths", [[1], [0], [8], [7, 8], [1, 1024]])
def test_every_text_is_in_the_histogram(lengths: list[int]) -> None:
    bins = histogram(np.array(lengths))
    assert sum(bins.values()) == len(lengths)
    for (low, high), count in bins.items():
        assert count == sum(low <= length <= high for length in lengths)


def test_texts_without_a_limit_are_not_cut() -> None:
    assert not any("cut" in line for line in statistics_lines("x", np.array([8]), 8, width=80))


@pytest.mark.parametrize("ids_per_step", [1, 7, 1 << 22])
def test_bytes_are_counted_by_feature(ids_per_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDS_PER_STEP", ids_per_step)
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 6, [20, 2])
    ends = np.cumsum(lengths.reshape(-1)).reshape(20, 2)
    tokens = generator.integers(0, 10, ends[-1, -1])
    bytes_per_id = [np.arange(10), np.arange(10)[::-1]]
    expected, start = [0, 0], 0
    for i, end in enumerate(ends.reshape(-1).tolist()):
        expected[i % 2] += int(bytes_per_id[i % 2][tokens[start:end]].sum())
        start = end
    assert bytes_of(tokens, bytes_per_id, ends) == expected


def test_lines_have_bars_of_the_shares() -> None:
    lengths = np.array([4, 4, 4, 20])
    assert list(statistics_lines("targets", lengths, 96, width=50, capacity=16)) == [
        "  targets: 4 texts, 32 tokens, 96 bytes, 3.00",
        "      bytes a token",
        "    tokens of a text: mean 8.0, 5%: 4, 25%: 4,",
        "        50%: 4, 75%: 4, 95%: 20, 99%: 20, longest",
        "        20",
        "    cut at 16 tokens: 1 texts (25.00%), 4 tokens",
        "        (12.50%)",
        f"      4-7  75.0 %  {'#' * 30}",
        "     8-15   0.0 %",
        f"    16-31  25.0 %  {'#' * 10}",
    ]
