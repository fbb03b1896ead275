"""Rows of texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtfrun.data.cache.tokens import open_cache
from mtfrun.data.prompts import bucket
from mtfrun.data.rows.batches import Rows, every_row
from mtfrun.data.rows.order import Selection
from mtfrun.data.rows.text_rows import PackedRows, PaddedRows, RowsByLength, StreamRows, TextRows
from tests.data.in_memory import texts_task, token_cache

FEATURES = ("inputs", "targets")


def all_rows(rows: Rows) -> dict[str, np.ndarray]:
    numbers = np.arange(len(rows))
    return dict(rows.take(Selection(numbers, np.zeros_like(numbers))))


def ids_of(text: bytes) -> list[int]:
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
    rng = np.random.default_rng(seed)
    return [rng.bytes(size) for size in rng.integers(0, longest + 1, count)]


@pytest.mark.parametrize("length", [1, 2, 7, 64])
@pytest.mark.parametrize("longest", [3, 200])
def test_rows_of_a_stream_equal_those_made_token_by_token(length: int, longest: int) -> None:
    texts = random_texts(seed=length, count=150, longest=longest)
    rows = StreamRows(open_cache(texts_task(texts), "train", ["targets"]), length)
    batch = all_rows(rows)
    expected = naive_stream(texts, length)
    assert batch["targets"].tolist() == [row for row, _, _ in expected]
    assert batch["targets_segmentation"].tolist() == [segments for _, segments, _ in expected]
    assert batch["targets_position"].tolist() == [positions for _, _, positions in expected]


def segments_of(batch: dict[str, np.ndarray], feature: str) -> list[list[int]]:
    """Returns the ids of every segment of a packed feature, whose positions are checked."""
    segments = []
    for ids, segmentation, position in zip(
        batch[feature], batch[f"{feature}_segmentation"], batch[f"{feature}_position"], strict=True
    ):
        count = int(segmentation.max())
        for number in range(1, count + 1):
            (columns,) = np.nonzero(segmentation == number)
            assert columns.tolist() == list(range(columns[0], columns[-1] + 1))
            assert position[columns].tolist() == list(range(columns.size))
            segments.append(ids[columns].tolist())
        padding = segmentation == 0
        assert padding.tolist() == sorted(padding.tolist())
        assert not ids[padding].any() and not position[padding].any()
    return segments


def trimmed(text: list[int], length: int) -> list[int]:
    return text if len(text) <= length else [*text[: length - 1], text[-1]]


text_ids = st.lists(st.integers(2, 60_000), max_size=25).map(lambda ids: [*ids, 1])
documents = st.lists(st.tuples(text_ids), min_size=1, max_size=30)
pairs = st.lists(st.tuples(text_ids, text_ids), min_size=1, max_size=30)
lengths = st.integers(1, 30)


@given(documents, lengths)
def test_packed_documents_hold_every_token_once(texts: list[tuple[list[int]]], length: int) -> None:
    rows = PackedRows(token_cache(texts, ["targets"]), [length])
    batch = all_rows(rows)
    pieces = [text[i : i + length] for (text,) in texts for i in range(0, len(text), length)]
    assert sorted(segments_of(batch, "targets")) == sorted(pieces)


@given(pairs, st.tuples(lengths, lengths), st.sampled_from([[], ["inputs"], FEATURES]))
def test_packed_pairs_are_undivided_and_aligned(
    examples: list[tuple[list[int], list[int]]], limits: tuple[int, int], front: list[str]
) -> None:
    rows = PackedRows(token_cache(examples, FEATURES), limits, cut_at_front=front)
    batch = all_rows(rows)
    columns = [segments_of(batch, feature) for feature in FEATURES]
    expected = [
        tuple(
            text[-limit:] if feature in front else trimmed(text, limit)
            for feature, text, limit in zip(FEATURES, example, limits, strict=True)
        )
        for example in examples
    ]
    assert sorted(zip(*columns, strict=True)) == sorted(expected)


@given(pairs, st.tuples(lengths, lengths), st.integers(0, 20), st.booleans())
def test_joined_pairs_are_undivided_and_one_segment(
    examples: list[tuple[list[int], list[int]]], limits: tuple[int, int], surplus: int, packed: bool
) -> None:
    cache = token_cache(examples, FEATURES)
    joined = sum(limits) + surplus
    expected = [
        [*trimmed(inputs, limits[0]), *trimmed(targets, limits[1])] for inputs, targets in examples
    ]
    rows: TextRows
    if packed:
        rows = PackedRows(cache, limits, joined=joined)
        batch = all_rows(rows)
        assert sorted(segments_of(batch, "targets")) == sorted(expected)
    else:
        rows = PaddedRows(cache, limits, joined=joined)
        batch = all_rows(rows)
        assert [
            row[: len(ids)].tolist() for row, ids in zip(batch["targets"], expected, strict=True)
        ] == expected
        assert np.count_nonzero(batch["targets"]) == sum(map(len, expected))
    assert batch["targets"].shape == (len(rows), joined)


def padded(ids: list[int], length: int) -> list[int]:
    return ids + [0] * (length - len(ids))


@given(pairs, st.tuples(lengths, lengths), st.integers(1, 7), st.booleans())
def test_batches_by_length_weigh_each_target_once(
    examples: list[tuple[list[int], list[int]]],
    limits: tuple[int, int],
    batch: int,
    is_joined: bool,
) -> None:
    joined = sum(limits) if is_joined else None
    cache = token_cache(examples, FEATURES)
    rows = PaddedRows(cache, limits, joined=joined)
    seen = []
    for values in every_row(RowsByLength(cache, limits, joined=joined), batch):
        seen += [
            tuple(ids[ids != 0].tolist() for ids in row)
            for row in zip(*values.values(), strict=True)
            if any(ids.any() for ids in row)
        ]
        for name, ids in values.items():
            assert ids.dtype == np.int32 and len(ids) == batch
            used = int(np.count_nonzero(ids, axis=1).max())
            assert ids.shape[1] == bucket(used, rows.lengths[name])
    whole = all_rows(rows)
    expected = [
        tuple(ids[ids != 0].tolist() for ids in row) for row in zip(*whole.values(), strict=True)
    ]
    assert sorted(seen) == sorted(expected)


@given(documents, lengths, st.integers(1, 7))
def test_an_evaluation_of_running_text_weighs_each_target_once(
    texts: list[tuple[list[int]]], length: int, batch: int
) -> None:
    cache = token_cache(texts, ["targets"])
    tokens = sorted(token for (text,) in texts for token in text)
    for rows in (StreamRows(cache, length), PackedRows(cache, [length])):
        targets = np.concatenate([values["targets"] for values in every_row(rows, batch)])
        assert len(targets) % batch == 0
        assert np.sort(targets[targets != 0]).tolist() == tokens


def test_batches_of_short_examples_are_short() -> None:
    lengths = [3, 40, 5, 17, 60, 16]
    cache = token_cache([[[2] * (length - 1) + [1]] for length in lengths], ["targets"])
    batches = list(every_row(RowsByLength(cache, [50]), 2))
    assert [batch["targets"].shape for batch in batches] == [(2, 16), (2, 16), (2, 32), (2, 50)]
    assert [np.count_nonzero(batch["targets"], axis=1).tolist() for batch in batches] == [
        [3, 5],
        [16, 0],
        [17, 0],
        [40, 50],
    ]


@pytest.mark.parametrize("rows", range(4))
def test_rows_are_taken_in_the_order_of_the_selection(rows: int) -> None:
    rng = np.random.default_rng(0)
    examples = [
        [[*rng.integers(2, 99, size).tolist(), 1] for size in sizes]
        for sizes in rng.integers(0, 20, [40, 2])
    ]
    cache = token_cache(examples, FEATURES)
    texts = token_cache([[example[0]] for example in examples], ["targets"])
    kind: Rows = [
        StreamRows(texts, 16),
        PackedRows(texts, [16]),
        PackedRows(cache, [16, 12]),
        PackedRows(cache, [16, 12], joined=30),
    ][rows]
    whole = all_rows(kind)
    numbers = rng.integers(0, len(kind), 25)  # some of them several times
    batch = kind.take(Selection(numbers, np.zeros_like(numbers)))
    assert batch.keys() == whole.keys()
    for name, values in batch.items():
        np.testing.assert_array_equal(values, whole[name][numbers])
        assert values.dtype == np.int32


def _documents(number: int, features: int) -> list[list[list[int]]]:
    """Returns examples of which each has its own id, repeated, and ends."""
    generator = np.random.default_rng(0)
    return [
        [[10 + i] * int(size) + [1] for size in generator.integers(1, 9, features)]
        for i in range(number)
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: StreamRows(token_cache(_documents(50, 1), ["targets"]), 7),
        lambda: StreamRows(token_cache(_documents(50, 1), ["targets"]), 3),
        lambda: PackedRows(token_cache(_documents(50, 1), ["targets"]), [16]),
        lambda: PackedRows(token_cache(_documents(50, 1), ["targets"]), [4]),
        lambda: PackedRows(token_cache(_documents(50, 2), FEATURES), [6, 6]),
        lambda: PackedRows(token_cache(_documents(50, 2), FEATURES), [6, 6], joined=12),
        lambda: PaddedRows(token_cache(_documents(50, 2), FEATURES), [6, 6]),
    ],
)
def test_examples_are_found_in_their_rows_and_segments(make: Callable[[], Rows]) -> None:
    rows = make()
    batch = all_rows(rows)
    examples = np.random.default_rng(1).permutation(50)[:20]
    places = rows.find(examples)
    ids = batch["targets"]
    segments = batch.get("targets_segmentation", np.zeros_like(ids))
    for number, example in enumerate(examples.tolist()):
        of = places.examples == number
        stand = np.argwhere(ids == 10 + example).tolist()
        expected = {(row, int(segments[row, column])) for row, column in stand}
        found = list(zip(places.rows[of].tolist(), places.segments[of].tolist(), strict=True))
        assert len(found) == len(set(found))
        only_ends = {place for place in found if place not in expected}
        assert expected <= set(found)
        for row, segment in only_ends:  # the end of a document that a row ends before
            assert set(ids[row][segments[row] == segment].tolist()) == {1}
