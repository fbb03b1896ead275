"""Embeddings: selection, ties and limits."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import layers, mtf
from tests.layouts import ONE_DEVICE, assert_close

VOCAB, WIDTH = mtf.Dimension("vocab", 10), mtf.Dimension("d_model", 4)


def _embedding() -> tuple[mtf.Mesh, layers.Embedding, np.ndarray]:
    mesh = mtf.Mesh(ONE_DEVICE)
    embedding = layers.Embedding(mesh, VOCAB, WIDTH)
    mtf.initialize(embedding, 0)
    return mesh, embedding, mtf.to_numpy(embedding.table)


def test_an_embedding_is_the_row_of_the_id_and_zero_outside_of_the_vocabulary() -> None:
    mesh, embedding, table = _embedding()
    ids = mtf.import_tf_tensor(mesh, np.asarray([3, 0, -1, 10], np.int32), "batch:4")
    vectors = embedding(ids, layers.Call())
    np.testing.assert_array_equal(mtf.to_numpy(vectors), [table[3], table[0], [0] * 4, [0] * 4])


def test_tied_logits_are_scaled_by_the_root_of_d_model() -> None:
    mesh, embedding, table = _embedding()
    x = np.random.default_rng(0).normal(size=[3, 4]).astype(np.float32)
    logits = embedding.logits(mtf.import_tf_tensor(mesh, x, [("batch", 3), WIDTH]))
    assert_close(mtf.to_numpy(logits), x @ table.T / 2.0)


def test_the_first_positions_are_those_of_a_gather() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    position = layers.PositionalEmbedding(mesh, 8, WIDTH)
    mtf.initialize(position, 0)
    for size in (5, 8):
        length = mtf.Dimension("length", size)
        gathered = position(mtf.range(mesh, length), layers.Call())
        np.testing.assert_array_equal(mtf.to_numpy(position.first(length)), mtf.to_numpy(gathered))


def test_a_sequence_longer_than_the_table_is_refused() -> None:
    position = layers.PositionalEmbedding(mtf.Mesh(ONE_DEVICE), 8, WIDTH)
    with pytest.raises(mtf.ShapeError, match=r"length:9 are longer than .* max_length=8"):
        position.first(mtf.Dimension("length", 9))
