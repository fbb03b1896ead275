"""Attention in blocks equals attention to everything at once."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from mtfrun.layers.attention.dot_product import attention_logits, mix_values
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close, meshes

BATCH, HEADS, D_KV = mtf.Dimension("batch", 8), mtf.Dimension("heads", 4), mtf.Dimension("d_kv", 8)
BUCKETS = mtf.Dimension("buckets", 8)
LAYOUT = "batch:data;heads:model"


class Case(NamedTuple):
    """Sizes, and the terms of the bias."""

    length: int = 21
    memory_length: int = 21
    causal: bool = True
    window: int | None = None
    dropout_rate: float = 0.0
    cap: float | None = None


CASES = {
    "causal": Case(),
    "dropout": Case(dropout_rate=0.3),
    "window": Case(window=4),
    "limits": Case(cap=0.8),
    "two lengths": Case(length=9, memory_length=30, causal=False, dropout_rate=0.2),
}


def _bias(
    case: Case, table: mtf.Tensor, given: mtf.Tensor, segments: mtf.Tensor
) -> layers.AttentionBias:
    mesh = table.mesh
    length = mtf.Dimension("length", case.length)
    queries = mtf.range(mesh, length)
    memory = mtf.range(mesh, mtf.Dimension("memory_length", case.memory_length))
    terms: list[layers.BiasTerm] = [
        layers.RelativeLogits(table, queries, memory, 12, not case.causal),
        layers.TensorBias(given),
        layers.PaddingMask(segments),
    ]
    if case.causal:
        terms.append(layers.causal_mask(mesh, length))
    if case.window is not None:
        terms.append(layers.WindowMask(queries, memory, case.window))
    return layers.AttentionBias.of(*terms)


@functools.cache
def _results(name: str, mesh_shape: str, block_length: int | None) -> list[np.ndarray]:
    """Returns the output, and the gradients of all inputs."""
    case, mesh = CASES[name], mtf.Mesh(mesh_shape, LAYOUT)
    length = mtf.Dimension("length", case.length)
    memory_length = mtf.Dimension("memory_length", case.memory_length)
    rng = np.random.default_rng(0)
    shapes = [
        mtf.Shape([BATCH, HEADS, length, D_KV]),
        mtf.Shape([BATCH, HEADS, memory_length, D_KV]),
        mtf.Shape([BATCH, HEADS, memory_length, D_KV]),
        mtf.Shape([HEADS, BUCKETS]),
        mtf.Shape([length, memory_length]),
    ]
    inputs = [
        mtf.import_tf_tensor(mesh, rng.standard_normal(s.to_integer_list, np.float32), s)
        for s in shapes
    ]
    ids = np.ones([BATCH.size, case.memory_length], np.int32)
    ids[1, -3:] = 0
    ids[2] = 0  # its queries see nothing
    segments = mtf.import_tf_tensor(mesh, ids, [BATCH, memory_length])
    dropout = layers.Dropout(case.dropout_rate)
    mtf.assign_paths(dropout)

    def run(*arguments: mtf.Tensor) -> list[mtf.Tensor | None]:
        query, keys, values, table, given, segments = arguments
        bias = _bias(case, table, given, segments)
        weights = mtf.Shape([BATCH, HEADS, length, memory_length])
        call = layers.Call(training=True, key=mtf.random_key(3))
        noise = layers.AttentionDropout.of(dropout, call, mesh, weights)
        if block_length is None:
            logits = attention_logits(
                query, keys, memory_length=memory_length, d_kv=D_KV, cap=case.cap
            )
            mixed = mix_values(
                logits,
                values,
                memory_length=memory_length,
                output_shape=query.shape,
                bias=bias.value(order=weights),
                drop=None if noise is None else lambda w: dropout(w, call),
            )
        else:
            mixed, _ = layers.attention_in_blocks(
                query,
                layers.KeysAndValues(keys, values),
                bias,
                block_length=block_length,
                dropout=noise,
                cap=case.cap,
            )
        total = mtf.reduce_sum(mtf.sin(mixed) * mtf.to_float(mtf.range(mesh, D_KV)))
        return [mixed, *mtf.gradients([total], arguments[:-1])]

    results: list[np.ndarray] = mtf.to_numpy(mtf.function(run)(*inputs, segments))
    return results


@pytest.mark.parametrize("block_length", [8, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("window", "two lengths") else pytest.mark.slow)
        for name in CASES
    ],
)
def test_blocks_change_neither_output_nor_gradients(name: str, block_length: int) -> None:
    expected = _results(name, ONE_DEVICE, None)
    for actual, array in zip(_results(name, ONE_DEVICE, block_length), expected, strict=True):
        assert np.abs(array).max() > 0.0
        assert_close(actual, array, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", meshes())
@pytest.mark.parametrize("name", CASES)
def test_a_layout_does_not_change_attention_in_blocks(name: str, mesh_shape: str) -> None:
    expected = _results(name, ONE_DEVICE, None)
    for actual, array in zip(_results(name, mesh_shape, 8), expected, strict=True):
        assert_close(actual, array, FLOAT32_MODEL_TOLERANCE)


def test_a_bias_sees_what_all_its_terms_see() -> None:
    mesh, length = mtf.Mesh(ONE_DEVICE), mtf.Dimension("length", 6)
    positions = mtf.range(mesh, length)
    window = layers.WindowMask(positions, positions, 3)
    assert layers.AttentionBias.of(window).window == (2, 2)
    assert layers.AttentionBias.of(layers.causal_mask(mesh, length)).window == (None, 0)
    assert layers.AttentionBias.of(window, layers.causal_mask(mesh, length)).window == (2, 0)


@pytest.mark.parametrize("block_length", [None, 16])
def test_no_mask_of_all_pairs_of_positions_is_stored_in_the_program(
    block_length: int | None,
) -> None:
    mesh, length = mtf.Mesh(ONE_DEVICE), mtf.Dimension("length", 64)
    d_model = mtf.Dimension("d_model", 8)
    heads = layers.AttentionHeads(2, d_kv=4)
    attention = layers.MultiHeadAttention(mesh, d_model, heads=heads, block_length=block_length)
    mtf.initialize(attention, seed=0)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def run(value: tf.Tensor) -> tf.Tensor:
        x = mtf.Tensor(mesh, value, [length, d_model])
        bias = layers.AttentionBias.of(layers.causal_mask(mesh, length))
        return attention.over_sequences(x, x, bias, layers.Call()).value

    graph = run.get_concrete_function(tf.TensorSpec([64, 8])).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    sizes = [
        np.prod([d.size for d in node.attr["value"].tensor.tensor_shape.dim], initial=1)
        for node in nodes
        if node.op == "Const"
    ]
    assert 64 <= max(sizes) < 64 * 64


def test_a_block_has_at_least_one_position() -> None:
    with pytest.raises(InputError, match=r"block_length is 0: .* of at least 1, or None"):
        layers.MultiHeadAttention(mtf.Mesh(ONE_DEVICE), D_KV, block_length=0)
