"""Rows of texts."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.data.rows import Rows, Selection
from mtfrun.data.text_rows import PackedRows, PaddedRows, StreamRows, batches_by_length
from tests.data.in_memory import pairs_task, texts_task


def all_rows(rows: Rows) -> dict[str, np.ndarray]:
    """Returns all rows, in order."""
    numbers = np.arange(len(rows))
    return dict(rows.take(Selection(numbers, np.zeros_like(numbers))))


def ids_of(text: bytes) -> list[int]:
    """Returns the ids of a text, with its end."""
    return [*(byte + 3 for byte in text), 1]


def naive_stream(texts: list[bytes], length: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Returns rows of (targets, segments, positions), made one token at a time."""
    rows: list[list[tuple[int, int, int]]] = []
    row: list[tuple[int, int, int]] = []
    for text in filter(None, texts):
        segment, position = (row[-1][1] + 1 if row else 1), 0
        for token in ids_of(text):
            if len(row) == length:
                rows.append(row)
                row, segment, position = [], 1, 0
            row.append((token, segment, position))
            position += 1
    if row:
        rows.append(row + [(0, 0, 0)] * (length - len(row)))
    return [
        ([t for t, _, _ in row], [s for _, s, _ in row], [p for _, _, p in row]) for row in rows
    ]


def random_texts(seed: int, count: int, longest: int) -> list[bytes]:
    """Returns documents of 0 to `longest` random bytes."""
    rng = np.random.default_rng(seed)
    return [rng.bytes(size) for size in rng.integers(0, longest + 1, count)]


@pytest.mark.parametrize("length", [1, 2, 7, 64])
@pytest.mark.parametrize("longest", [3, 200])
def test_rows_of_a_stream_equal_those_made_token_by_token(length: int, longest: int) -> None:
    texts = random_texts(seed=length, count=150, longest=longest)
    rows = StreamRows(texts_task(texts).cache("train", ["targets"]), length)
    batch = all_rows(rows)
    expected = naive_stream(texts, length)
    assert batch["targets"].tolist() == [row for row, _, _ in expected]
    assert batch["targets_segmentation"].tolist() == [segments for _, segments, _ in expected]
    assert batch["targets_position"].tolist() == [positions for _, _, positions in expected]
    assert rows.density == (sum(len(text) + 1 for text in texts if text), len(rows) * length, 0)


def test_smoke_all() -> None:
    texts = random_texts(0, 50, 30)
    rows = PackedRows(texts_task(texts).cache("train", ["targets"]), [16])
    batch = all_rows(rows)
    assert np.count_nonzero(batch["targets"]) == rows.density.tokens
    pairs = [(str(i) * (i % 5), "x" * (i % 9)) for i in range(40)]
    cache = pairs_task(pairs).cache("train", ["inputs", "targets"])
    for r in (
        PackedRows(cache, [6, 7]),
        PackedRows(cache, [6, 7], joined=20),
        PaddedRows(cache, [6, 7]),
        PaddedRows(cache, [6, 7], joined=20),
    ):
        batch = all_rows(r)
        assert (
            sum(np.count_nonzero(batch[n]) for n in ("inputs", "targets") if n in batch)
            == r.density.tokens
        )
        assert batch["targets"].dtype == np.int32
        if isinstance(r, PaddedRows):
            assert (
                sum(sum(np.count_nonzero(x) for x in b.values()) for b in batches_by_length(r, 4))
                == r.density.tokens
            )
