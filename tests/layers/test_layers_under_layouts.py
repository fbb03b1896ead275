"""No layout changes the output of a layer, nor its gradients; dropout is on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.models.transformer import FeedForward, SelfAttention, SequenceCall
from tests.layers.differentiated import output_and_gradients
from tests.layouts import FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close, meshes

BATCH, LENGTH, D_MODEL, VOCAB = "batch:8", "length:4", "d_model:8", "vocab:16"
WIDTH = mtf.convert_to_dimension(D_MODEL)
IDS = mtf.convert_to_dimension(VOCAB)
RNG = np.random.default_rng(0)


def _normal(*sizes: int) -> np.ndarray:
    return RNG.normal(size=sizes).astype(np.float32)


def _integers(high: int, *sizes: int) -> np.ndarray:
    return RNG.integers(0, high, sizes).astype(np.int32)


X = {"x": (f"{BATCH};{LENGTH};{D_MODEL}", _normal(8, 4, 8))}
ROWS = {"ids": (f"{BATCH};{LENGTH}", _integers(16, 8, 4))}
LOGITS = {"logits": (f"{BATCH};{LENGTH};{VOCAB}", _normal(8, 4, 16)), **ROWS}


class Case(NamedTuple):
    """A layer, how it is called and its inputs."""

    make: Callable[[mtf.Mesh], mtf.Module]
    apply: Callable[[Any, Mapping[str, mtf.Tensor], SequenceCall], mtf.Tensor]
    inputs: dict[str, Any]


def _attend(
    layer: SelfAttention, inputs: Mapping[str, mtf.Tensor], call: SequenceCall
) -> mtf.Tensor:
    length, memory_length = mtf.Dimension("length", 4), mtf.Dimension("memory_length", 4)
    mask = layers.attention_mask_causal(inputs["x"].mesh, length, memory_length)
    segments = layers.attention_mask_same_segment(inputs["ids"])
    return layer(inputs["x"], dataclasses.replace(call, self_attention_bias=mask + segments))


CASES = {
    "dense": Case(
        lambda mesh: layers.Dense(
            mesh,
            [WIDTH],
            [mtf.Dimension("heads", 4), mtf.Dimension("d_kv", 2)],
            activation=mtf.gelu,
        ),
        lambda layer, inputs, call: layer(inputs["x"], call),
        X,
    ),
    "dense_product": Case(
        lambda mesh: layers.DenseProduct(mesh, [WIDTH], [mtf.Dimension("d_ff", 16)]),
        lambda layer, inputs, call: layer(inputs["x"], call),
        X,
    ),
    "rms_norm": Case(
        lambda mesh: layers.RMSNorm(mesh, WIDTH),
        lambda layer, inputs, call: layer(inputs["x"], call),
        X,
    ),
    "layer_norm": Case(
        lambda mesh: layers.LayerNorm(mesh, WIDTH),
        lambda layer, inputs, call: layer(inputs["x"], call),
        X,
    ),
    "layer_norm_over_a_split_dimension": Case(
        lambda mesh: layers.LayerNorm(mesh, IDS),
        lambda layer, inputs, call: layer(inputs["logits"], call),
        LOGITS,
    ),
    "embedding": Case(
        lambda mesh: layers.Embedding(mesh, IDS, WIDTH),
        lambda layer, inputs, call: layer(inputs["ids"], call),
        ROWS,
    ),
    "tied_softmax": Case(
        lambda mesh: layers.Embedding(mesh, IDS, WIDTH),
        lambda layer, inputs, call: layer.logits(inputs["x"]),
        X,
    ),
    "positional_embedding": Case(
        lambda mesh: layers.PositionalEmbedding(mesh, 16, WIDTH),
        lambda layer, inputs, call: layer(inputs["ids"], call),
        ROWS,
    ),
    "first_positions": Case(
        lambda mesh: layers.PositionalEmbedding(mesh, 16, WIDTH),
        lambda layer, inputs, call: layer.first(mtf.Dimension("length", 4)),
        {},
    ),
    "dropout": Case(
        lambda mesh: layers.Dropout(0.4),
        lambda layer, inputs, call: layer(inputs["x"], call),
        X,
    ),
    "feed_forward": Case(
        lambda mesh: FeedForward(mesh, WIDTH, d_ff=16, dropout_rate=0.3),
        lambda layer, inputs, call: layer(inputs["x"], call),
        X,
    ),
    "self_attention": Case(
        lambda mesh: SelfAttention(
            mesh, WIDTH, heads=layers.AttentionHeads(4, d_kv=4), dropout_rate=0.3
        ),
        _attend,
        {**X, "ids": (ROWS["ids"][0], _integers(2, 8, 4))},
    ),
    "cross_entropy_with_ids": Case(
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: layers.softmax_cross_entropy_with_ids(
            inputs["logits"], inputs["ids"], IDS, label_smoothing=0.1, z_loss=0.01
        ),
        LOGITS,
    ),
    "cross_entropy_with_probabilities": Case(
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: layers.softmax_cross_entropy_with_logits(
            inputs["logits"], mtf.softmax(inputs["targets"], IDS), IDS, z_loss=0.01
        ),
        {**LOGITS, "targets": (LOGITS["logits"][0], _normal(8, 4, 16))},
    ),
}


@functools.cache
def _results(name: str, mesh_shape: str) -> dict[str, np.ndarray]:
    return output_and_gradients(mesh_shape, *CASES[name])


@pytest.mark.parametrize("mesh_shape", meshes())
@pytest.mark.parametrize("name", CASES)
def test_a_layout_changes_neither_output_nor_gradients(name: str, mesh_shape: str) -> None:
    expected, actual = _results(name, ONE_DEVICE), _results(name, mesh_shape)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(actual[key], value, FLOAT32_OP_TOLERANCE)
