from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from mtfrun.data import Data, padding_of
from mtfrun.data.token_cache import Cached
from mtfrun.tools.data_viewer.row_view import TRAIN
from mtfrun.tools.data_viewer.rows_text import heading_lines

PERCENTILES = (5, 25, 50, 75, 95, 99)
# Ids whose bytes are counted at a time.
_IDS_PER_STEP = 1 << 22
# Rows of which the padding is counted where the data do not count it.
_SAMPLED_ROWS = 1024
# Columns of the longest bar.
_LONGEST_BAR = 50


@dataclasses.dataclass(frozen=True)
class LengthStatistics:
    """Statistics of the lengths in tokens, ends included, of the texts of one feature.

    `percentiles` has lengths by the percentage of texts that are not longer; `histogram` counts
    texts by the shortest and the longest length of a bin. Of `cut_texts`, which are longer than
    `capacity`, `cut_tokens` are behind it; a `capacity` of None cuts none.
    """

    count: int
    tokens: int
    mean: float
    percentiles: dict[int, int]
    longest: int
    histogram: dict[tuple[int, int], int]
    capacity: int | None
    cut_texts: int
    cut_tokens: int


def length_statistics(lengths: np.ndarray, capacity: int | None = None) -> LengthStatistics:
    """A text that is cut retains its end, so that one token less than the capacity remains."""
    longest = int(lengths.max())
    percentiles = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
    excess = np.zeros_like(lengths) if capacity is None else np.maximum(lengths - capacity, 0)
    return LengthStatistics(
        count=len(lengths),
        tokens=int(lengths.sum()),
        mean=float(lengths.mean()),
        percentiles=dict(zip(PERCENTILES, map(int, percentiles), strict=True)),
        longest=longest,
        histogram=_histogram(lengths, longest),
        capacity=capacity,
        cut_texts=int((excess > 0).sum()),
        cut_tokens=int(excess.sum()),
    )


def bytes_of(tokens: np.ndarray, bytes_per_id: Sequence[np.ndarray], ends: np.ndarray) -> list[int]:
    """Returns the bytes of text that the ids of each feature represent.

    tokens: int [tokens] of all texts, an example's features one after the other. bytes_per_id: of
    each feature, int [vocabulary]. ends: int [examples, features], in `tokens`.
    """
    features = ends.shape[1]
    totals = [0] * features
    # Several examples at a time, so that a mapped file is not read into memory as a whole.
    first, start = 0, 0
    while first < len(ends):
        last = int(np.searchsorted(ends[:, -1], start + _IDS_PER_STEP, side="right"))
        last = max(last, first + 1)
        flat = ends[first:last].reshape(-1)
        ids = tokens[start : flat[-1]]
        lengths = np.diff(flat, prepend=start)
        feature_of_text = np.tile(np.arange(features), last - first)
        feature_of_id = np.repeat(feature_of_text, lengths)
        for feature in range(features):
            here = ids if features == 1 else ids[feature_of_id == feature]
            totals[feature] += int(bytes_per_id[feature][here].sum(dtype=np.int64))
        first, start = last, int(flat[-1])
    return totals


def _histogram(lengths: np.ndarray, longest: int) -> dict[tuple[int, int], int]:
    """Bins are 0, 1, 2 to 3, 4 to 7, ...: lengths differ by orders of ten."""
    bins = [(0, 0)] + [(1 << i, (2 << i) - 1) for i in range(longest.bit_length())]
    bounds = [first for first, _ in bins] + [bins[-1][1] + 1]
    counts = np.histogram(lengths, bounds)[0].tolist()
    occupied = [i for i, count in enumerate(counts) if count]
    chosen = range(occupied[0], occupied[-1] + 1)
    return {bins[i]: counts[i] for i in chosen}


def statistics_lines(
    feature: str, statistics: LengthStatistics, text_bytes: int, width: int
) -> Iterator[str]:
    s = statistics
    yield from heading_lines(
        f"{feature}: {s.count:,} texts, {s.tokens:,} tokens, {text_bytes:,} bytes, "
        f"{text_bytes / s.tokens:.2f} bytes a token",
        width,
        "  ",
    )
    percentiles = ", ".join(f"{p}%: {length:,}" for p, length in s.percentiles.items())
    yield from heading_lines(
        f"tokens of a text: mean {s.mean:,.1f}, {percentiles}, longest {s.longest:,}", width, "    "
    )
    if s.capacity is not None:
        yield from heading_lines(
            f"cut at {s.capacity:,} tokens: {s.cut_texts:,} texts ({s.cut_texts / s.count:.2%}), "
            f"{s.cut_tokens:,} tokens ({s.cut_tokens / s.tokens:.2%})",
            width,
            "    ",
        )
    yield from _bars(s.histogram, s.count, width)


def _bars(histogram: dict[tuple[int, int], int], count: int, width: int) -> Iterator[str]:
    labels = [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high in histogram]
    label_width = max(map(len, labels))
    room = max(5, min(_LONGEST_BAR, width - label_width - len("      100.0 %  ")))
    largest = max(histogram.values())
    for label, number in zip(labels, histogram.values(), strict=True):
        # A bin that is not empty has a bar.
        bar = "#" * max(round(room * number / largest), int(number > 0))
        yield f"    {label:>{label_width}} {100 * number / count:5.1f} %  {bar}".rstrip()


def density_lines(data: Data, split: str, seed: int) -> list[str]:
    """Returns lines on how full the rows of training are that a split makes."""
    densities = data.densities(split)
    if densities:
        return [
            f"{title}: {density.fraction:.2%} of {density.capacity:,} positions hold a token, "
            f"{density.cut_tokens:,} tokens are cut"
            for title, density in densities.items()
        ]
    rows = 64
    batches = data.train(rows, seed=seed) if split == TRAIN else data.evaluation(rows, split=split)
    counts = list(map(padding_of, itertools.islice(batches, math.ceil(_SAMPLED_ROWS / rows))))
    positions = sum(count.positions for count in counts)
    if not positions:
        return []
    tokens = positions - sum(count.empty for count in counts)
    return [
        f"{tokens / positions:.2%} of {positions:,} positions hold a token, "
        f"in the first {rows * len(counts):,} rows"
    ]


def statistics_of(cached: Cached, data: Data) -> Iterator[str]:
    counts = ", ".join(f"{number:,} {name}" for name, number in cached.counts.items())
    yield f"{cached.title} {cached.split}: {counts}"
    if cached.texts is None:
        return
    features = cached.texts.features
    lengths = cached.texts.lengths
    bytes_per_id = [data.vocabularies[feature].bytes_per_id for feature in features]
    width = shutil.get_terminal_size().columns
    text_bytes = bytes_of(cached.texts.tokens, bytes_per_id, cached.texts.ends)
    for column, feature in enumerate(features):
        statistics = length_statistics(lengths[:, column], data.text_limits.get(feature))
        yield from statistics_lines(feature, statistics, text_bytes[column], width)
