from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from mtfrun.data import Data, padding_of
from mtfrun.data.cache.tokens import Cached
from mtfrun.extras.data_viewer.row_view import TRAIN
from mtfrun.extras.data_viewer.rows_text import heading_lines

PERCENTILES = (5, 25, 50, 75, 95, 99)
# Ids that are counted at a time.
_IDS_PER_STEP = 1 << 22
# Rows of which the padding is counted.
_SAMPLED_ROWS = 1024
# Columns of the longest bar.
_LONGEST_BAR = 50


def bytes_of(tokens: np.ndarray, bytes_per_id: Sequence[np.ndarray], ends: np.ndarray) -> list[int]:
    """Returns the bytes of text that the ids of each feature represent.

    tokens: int [tokens] of all texts, an example's features one after the other. bytes_per_id: of
    each feature, int [vocabulary]. ends: int [examples, features], in `tokens`.
    """
    stops, features = ends.reshape(-1), ends.shape[1]
    totals = [0] * features
    # A part at a time, so that a mapped file is not read into memory as a whole.
    for start in range(0, tokens.size, _IDS_PER_STEP):
        ids = tokens[start : start + _IDS_PER_STEP]
        texts = np.searchsorted(stops, start + np.arange(ids.size), side="right")
        for feature, sizes in enumerate(bytes_per_id):
            is_of_feature = texts % features == feature
            totals[feature] += int(sizes[ids[is_of_feature]].sum(dtype=np.int64))
    return totals


def histogram(lengths: np.ndarray) -> dict[tuple[int, int], int]:
    """Returns the number of texts by the shortest and the longest length of a bin.

    Bins are 0, 1, 2 to 3, 4 to 7, ...: lengths differ by orders of ten.
    """
    bits = np.frexp(lengths)[1]
    counts = np.bincount(bits).tolist()
    return {((1 << i) // 2, (1 << i) - 1): counts[i] for i in range(bits.min(), len(counts))}


def statistics_lines(
    feature: str, lengths: np.ndarray, text_bytes: int, width: int, capacity: int | None = None
) -> Iterator[str]:
    """Yields lines about the lengths in tokens, ends included, of the texts of one feature.

    They are cut at `capacity`, None for no limit.
    """
    count, tokens = len(lengths), int(lengths.sum())
    line = f"{feature}: {count:,} texts, {tokens:,} tokens, {text_bytes:,} bytes, "
    yield from heading_lines(f"{line}{text_bytes / tokens:.2f} bytes a token", width, "  ")
    limits = map(int, np.percentile(lengths, PERCENTILES, method="inverted_cdf"))
    percentiles = [f"{x}%: {length:,}" for x, length in zip(PERCENTILES, limits, strict=True)]
    mean, longest = f"{lengths.mean():,.1f}", f"{int(lengths.max()):,}"
    lines = [f"tokens of a text: mean {mean}, {', '.join(percentiles)}, longest {longest}"]
    if capacity is not None:
        excess = np.maximum(lengths - capacity, 0)
        cut_texts, cut_tokens = int((excess > 0).sum()), int(excess.sum())
        lines.append(
            f"cut at {capacity:,} tokens: {cut_texts:,} texts ({cut_texts / count:.2%}), "
            f"{cut_tokens:,} tokens ({cut_tokens / tokens:.2%})"
        )
    for line in lines:
        yield from heading_lines(line, width, "    ")
    yield from _bars(histogram(lengths), count, width)


def _bars(bins: dict[tuple[int, int], int], count: int, width: int) -> Iterator[str]:
    labels = [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high in bins]
    label_width = max(map(len, labels))
    room = max(5, min(_LONGEST_BAR, width - label_width - len("      100.0 %  ")))
    largest = max(bins.values())
    for label, number in zip(labels, bins.values(), strict=True):
        # A bin that is not empty has a bar.
        bar = "#" * max(round(room * number / largest), int(number > 0))
        yield f"    {label:>{label_width}} {100 * number / count:5.1f} %  {bar}".rstrip()


def density_lines(data: Data, split: str, seed: int) -> list[str]:
    """Returns lines on how full the rows of training are that a split makes."""
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
    texts, width = cached.texts, shutil.get_terminal_size().columns
    bytes_per_id = [vocabulary.bytes_per_id for vocabulary in texts.vocabularies]
    text_bytes = bytes_of(texts.tokens, bytes_per_id, texts.ends)
    for column, feature in enumerate(texts.features):
        lengths, capacity = texts.lengths[:, column], data.text_limits.get(feature)
        yield from statistics_lines(feature, lengths, text_bytes[column], width, capacity)
