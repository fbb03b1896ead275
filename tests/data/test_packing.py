"""Packing of documents into rows."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.data import ByteVocabulary, first_fit, pack, segmentation_and_position
from tests.data.in_memory import InMemory

VOCABULARY = ByteVocabulary()


def rows_of(texts: list[bytes], length: int) -> np.ndarray:
    """Returns the packed rows of `texts`, [rows, length]."""
    documents = InMemory(tuple(texts)).documents("train")
    return np.array(list(pack(documents, VOCABULARY, length).as_numpy_iterator()))


def naive_rows(texts: list[bytes], length: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Returns rows of (targets, segments, positions), made one token at a time."""
    rows: list[list[tuple[int, int, int]]] = []
    row: list[tuple[int, int, int]] = []
    for text in filter(None, texts):
        segment, position = (row[-1][1] + 1 if row else 1), 0
        for token in [*(byte + 3 for byte in text), 1]:
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
def test_rows_segments_and_positions_equal_those_made_token_by_token(
    length: int, longest: int
) -> None:
    texts = random_texts(seed=length, count=150, longest=longest)  # several calls of the tokeniser
    rows = rows_of(texts, length)
    segmentation, position = segmentation_and_position(tf.constant(rows), pad_id=0, end_id=1)
    expected = naive_rows(texts, length)
    assert rows.tolist() == [row for row, _, _ in expected]
    assert segmentation.numpy().tolist() == [segments for _, segments, _ in expected]
    assert position.numpy().tolist() == [positions for _, _, positions in expected]


def test_a_document_that_ends_with_the_row_leaves_no_empty_segment() -> None:
    rows = rows_of([b"abc", b"d"], length=4)
    assert rows.tolist() == [[100, 101, 102, 1], [103, 1, 0, 0]]
    segmentation, position = segmentation_and_position(tf.constant(rows), pad_id=0, end_id=1)
    assert segmentation.numpy().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert position.numpy().tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]


def test_the_rows_hold_every_document_byte_for_byte() -> None:
    texts = [b"", b"\x00\x00", b"\r\n", b"", "é".encode(), bytes(range(256)) * 5, b""]
    stream = rows_of(texts, length=50).reshape(-1)
    documents = b"".join(texts)
    assert bytes(int(i) - 3 for i in stream if i >= 3) == documents
    assert np.count_nonzero(stream == 1) == 4
    assert not stream[len(documents) + 4 :].any()


def test_empty_documents_make_no_row() -> None:
    assert rows_of([b""] * 100, length=4).size == 0
    assert rows_of([], length=4).size == 0


def test_a_row_of_padding_has_neither_segment_nor_position() -> None:
    segmentation, position = segmentation_and_position(
        tf.zeros([2, 3], tf.int32), pad_id=0, end_id=1
    )
    assert not segmentation.numpy().any() and not position.numpy().any()


def naive_first_fit(texts: list[list[int]], length: int) -> list[list[int]]:
    """Returns the rows when each text is appended to the first row that can hold it."""
    rows: list[list[int]] = []
    for text in texts:
        for row in rows:
            if len(row) + len(text) <= length:
                row += text
                break
        else:
            rows.append(list(text))
    return rows


@pytest.mark.parametrize("longest", [1, 7, 20])
def test_undivided_texts_are_put_into_the_first_row_that_can_hold_them(longest: int) -> None:
    rng = np.random.default_rng(longest)
    texts = [rng.integers(2, 99, size).tolist() for size in rng.integers(1, longest + 1, 200)]
    rows = first_fit(tf.ragged.constant(texts, dtype=tf.int32), 20)
    assert rows.to_list() == naive_first_fit(texts, 20)
