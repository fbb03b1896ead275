from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.data import Batch, Data, padding_of
from mtfrun.data.token_cache import Cached
from mtfrun.tools.data_viewer.row_view import Meanings, RowView, row_views
from mtfrun.tools.data_viewer.statistics import bytes_of, length_statistics, statistics_lines

TRAIN = "train"
# The split of an evaluation if the configuration names none.
EVALUATION = "validation"
# Rows of which the padding is counted where the data do not count it.
_SAMPLED_ROWS = 1024


class ConfiguredData(NamedTuple):
    data: Data
    splits: Sequence[str]
    seed: int


def named_rows(
    data: Data, split: str, count: int, seed: int
) -> Iterator[tuple[str | None, RowView]]:
    """Yields rows of training, or of all tasks' evaluations on another split, with task names."""
    meanings = Meanings(data.vocabularies, data.class_names)
    parts = data.by_task()
    if split == TRAIN:
        batches = data.train(count, seed=seed)
        tasks = batches.components_at(count)
        for task, row in zip(tasks, row_views(next(batches), meanings), strict=True):
            yield (task if len(parts) > 1 else None), row
        return
    for task, part in parts.items():
        batch = next(part.evaluation(count, split=split), None)
        if batch is not None:
            for row in row_views(_without_empty_rows(batch), meanings):
                yield (task if len(parts) > 1 else None), row


def _batches(data: Data, split: str, rows: int, seed: int) -> Iterator[Batch]:
    return data.train(rows, seed=seed) if split == TRAIN else data.evaluation(rows, split=split)


def _without_empty_rows(batch: Batch) -> Mapping[str, np.ndarray]:
    """Removes the rows of zeros that pad a batch, unless there is no other row."""
    size = len(next(iter(batch.values())))
    occupied = np.zeros(size, bool)
    for values in batch.values():
        occupied |= values.reshape(size, -1).any(axis=1)
    return {name: values[occupied] for name, values in batch.items()} if occupied.any() else batch


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
    batches = itertools.islice(_batches(data, split, rows, seed), math.ceil(_SAMPLED_ROWS / rows))
    counts = [padding_of(batch) for batch in batches]
    positions = sum(count.positions for count in counts)
    if not positions:
        return []
    tokens = positions - sum(count.empty for count in counts)
    return [
        f"{tokens / positions:.2%} of {positions:,} positions hold a token, "
        f"in the first {rows * len(counts):,} rows"
    ]


def statistics_of(cached: Cached, data: Data) -> Iterator[str]:
    yield f"{title_of(cached)}: " + ", ".join(f"{n:,} {name}" for name, n in cached.counts.items())
    if cached.texts is None:
        return
    features = cached.texts.features
    lengths = cached.texts.lengths
    bytes_per_id = [data.vocabularies[feature].bytes_per_id for feature in features]
    text_bytes = bytes_of(cached.texts.tokens, bytes_per_id, cached.texts.ends)
    for column, feature in enumerate(features):
        statistics = length_statistics(lengths[:, column], data.text_limits.get(feature))
        yield from statistics_lines(feature, statistics, text_bytes[column], terminal_width())


def title_of(cached: Cached) -> str:
    return f"{cached.title} {cached.split}"


def terminal_width() -> int:
    return shutil.get_terminal_size().columns
