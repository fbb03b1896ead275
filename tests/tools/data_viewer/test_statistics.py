"""Tests of the statistics of lengths."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.tools.data_viewer import statistics as module
from mtfrun.tools.data_viewer.statistics import bytes_of, length_statistics, statistics_lines


def test_counts_percentiles_and_what_is_cut() -> None:
    statistics = length_statistics(np.arange(1, 101), capacity=90)
    assert (statistics.count, statistics.tokens, statistics.mean) == (100, 5050, 50.5)
    assert statistics.percentiles == {5: 5, 25: 25, 50: 50, 75: 75, 95: 95, 99: 99}
    assert (statistics.longest, statistics.cut_texts, statistics.cut_tokens) == (100, 10, 55)
    assert statistics.histogram == {
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
    statistics = length_statistics(np.array(lengths))
    assert sum(statistics.histogram.values()) == len(lengths)
    assert (statistics.cut_texts, statistics.cut_tokens) == (0, 0)
    for (low, high), count in statistics.histogram.items():
        assert count == sum(low <= length <= high for length in lengths)


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
    statistics = length_statistics(np.array([4, 4, 4, 20]), capacity=16)
    assert list(statistics_lines("targets", statistics, 96, width=50)) == [
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
