"""Attention against numpy, and its caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from tests.layouts import ONE_DEVICE, assert_close

# 8 bits of mantissa.
BFLOAT16_TOLERANCE = 0.03
RNG = np.random.default_rng(0)
LENGTH, MEMORY, D_KV = (
    mtf.Dimension("length", 5),
    mtf.Dimension("memory_length", 7),
    mtf.Dimension("d_kv", 4),
)


def _attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray) -> np.ndarray:
    logits = q @ np.swapaxes(k, -1, -2) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def test_attention_is_the_formula_without_a_scale() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    q, k, v = (RNG.normal(size=[2, 3, n, 4]).astype(np.float32) for n in (5, 7, 7))
    bias = RNG.normal(size=[2, 5, 7]).astype(np.float32)
    outer = [("batch", 2), ("heads", 3)]
    output = layers.dot_product_attention(
        mtf.import_tf_tensor(mesh, q, [*outer, LENGTH, D_KV]),
        mtf.import_tf_tensor(mesh, k, [*outer, MEMORY, D_KV]),
        mtf.import_tf_tensor(mesh, v, [*outer, MEMORY, D_KV]),
        memory_length=MEMORY,
        d_kv=D_KV,
        bias=mtf.import_tf_tensor(mesh, bias, [("batch", 2), LENGTH, MEMORY]),
    )
    assert_close(mtf.to_numpy(output), _attention(q, k, v, bias[:, np.newaxis]))


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_gradients_in_bfloat16_are_near_those_in_float32(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;heads:model")
    outer = [("batch", 2), ("heads", 2)]
    shapes = [mtf.Shape([*outer, dim, D_KV]) for dim in (LENGTH, MEMORY, MEMORY)]
    values = [
        mtf.import_tf_tensor(mesh, RNG.normal(size=s.to_integer_list).astype(np.float32), s)
        for s in shapes
    ]

    def gradients(*values: mtf.Tensor) -> list[list[mtf.Tensor | None]]:
        results = []
        for dtype in (tf.float32, tf.bfloat16):
            q, k, v = (mtf.cast(x, dtype) for x in values)
            y = layers.dot_product_attention(q, k, v, memory_length=MEMORY, d_kv=D_KV)
            total = mtf.reduce_sum(mtf.square(mtf.to_float(y)))
            results.append(mtf.gradients([total], values))
        return results

    expected, actual = mtf.to_numpy(mtf.function(gradients)(*values))
    for x, y in zip(actual, expected, strict=True):
        assert_close(x, y, BFLOAT16_TOLERANCE)


def test_projections_have_biases_and_logits_a_scale_where_heads_say_so() -> None:
    mesh, width = mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_model", 6)
    heads = layers.AttentionHeads(
        2, d_kv=4, scaled_logits=True, use_bias=True, use_output_bias=True
    )
    attention = layers.MultiHeadAttention(mesh, width, heads=heads)
    mtf.initialize(attention, seed=0)
    for variable in attention.named_variables().values():
        value = RNG.normal(size=variable.shape.to_integer_list).astype(np.float32)
        mtf.assign(variable, mtf.import_tf_tensor(mesh, value, variable.shape))
    x = RNG.normal(size=[5, 6]).astype(np.float32)
    own = mtf.import_tf_tensor(mesh, x, [LENGTH, width])
    output = attention.over_sequences(own, own, layers.NO_BIAS, layers.Call())
    values = mtf.to_numpy(attention.named_variables())
    q, k, v = (
        np.einsum("lm,mhk->hlk", x, values[name]) + values[f"{name}_bias"][:, np.newaxis]
        for name in ("query", "key", "value")
    )
    mixed = _attention(q / 2.0, k, v, np.zeros([5, 5]))
    expected = np.einsum("hlk,hkm->lm", mixed, values["output"]) + values["output_bias"]
    assert_close(mtf.to_numpy(output), expected)


def test_heads_may_share_keys_and_values() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    q = RNG.normal(size=[2, 3, 5, 4]).astype(np.float32)
    k, v = (RNG.normal(size=[2, 7, 4]).astype(np.float32) for _ in range(2))
    output = layers.dot_product_attention(
        mtf.import_tf_tensor(mesh, q, [("batch", 2), ("heads", 3), LENGTH, D_KV]),
        mtf.import_tf_tensor(mesh, k, [("batch", 2), MEMORY, D_KV]),
        mtf.import_tf_tensor(mesh, v, [("batch", 2), MEMORY, D_KV]),
        memory_length=MEMORY,
        d_kv=D_KV,
    )
    expected = _attention(q, k[:, np.newaxis], v[:, np.newaxis], np.zeros([5, 7]))
    assert_close(mtf.to_numpy(output), expected)


@pytest.mark.parametrize(
    ("heads", "options", "message"),
    [
        ({"norm": layers.RMSNorm}, {}, "leave out one of shared_kv and norm"),
        ({}, {"rotary": True}, "leave out one of shared_kv and rotary"),
    ],
)
def test_keys_that_are_not_the_values_are_refused_as_shared(
    heads: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    mesh, width = mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_model", 6)
    with pytest.raises(InputError, match=message):
        layers.MultiHeadAttention(
            mesh, width, heads=layers.AttentionHeads(2, d_kv=4, shared_kv=True, **heads), **options
        )


def test_a_row_that_is_masked_everywhere_attends_uniformly() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    q = mtf.import_tf_tensor(mesh, RNG.normal(size=[5, 4]).astype(np.float32), [LENGTH, D_KV])
    k = RNG.normal(size=[7, 4]).astype(np.float32)
    memory = mtf.import_tf_tensor(mesh, k, [MEMORY, D_KV])
    mask = mtf.constant(mesh, layers.MASKED, [MEMORY])
    output = layers.dot_product_attention(
        q, memory, memory, memory_length=MEMORY, d_kv=D_KV, bias=mask
    )
    assert_close(mtf.to_numpy(output), np.tile(k.mean(0), [5, 1]))


def test_the_causal_mask_leaves_the_past_open() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    four = mtf.Dimension("memory_length", 4)
    mask = layers.causal_mask(mesh, mtf.Dimension("length", 4)).value(tf.float32)
    np.testing.assert_array_equal(mtf.to_numpy(mask) == 0.0, np.tri(4, dtype=bool))
    for position in range(4):
        step = layers.causal_mask_at(mtf.constant(mesh, position, dtype=tf.int32), four)
        row = step.value(tf.float32)
        np.testing.assert_array_equal(mtf.to_numpy(row), mtf.to_numpy(mask)[position])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sums_in_place_begin_with_zeros_in_every_run(jit_compile: bool) -> None:
    mesh = mtf.Mesh("data:1", "")
    dim = mtf.Dimension("blocks", 3)

    def sums(entry: mtf.Tensor) -> list[mtf.Tensor]:
        shape = mtf.Shape([dim]) + entry.shape

        def add(i: mtf.Tensor, x: mtf.Tensor, y: mtf.Tensor) -> list[mtf.Tensor]:
            return [i + 1, mtf.add_position(x, entry, dim, i), mtf.add_position(y, -entry, dim, i)]

        start = [mtf.constant(mesh, 1, dtype=tf.int32)]
        start += [mtf.mutable_zeros(mesh, shape) for _ in range(2)]
        return mtf.while_loop(lambda i, *_: mtf.less(i, dim.size), add, start)[1:]

    program = mtf.function(sums, jit_compile=jit_compile)
    entry = mtf.ones(mesh, "width:2")
    for _ in range(2):
        x, y = map(mtf.to_numpy, program(entry))
        np.testing.assert_array_equal(x, [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
        np.testing.assert_array_equal(y, -x)


@pytest.mark.parametrize("jit", [False, True])
def test_write_position_leaves_rows_unchanged_where_the_condition_is_false(
    mesh_shape: str, jit: bool
) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;heads:model")
    memory = RNG.normal(size=[8, 4, 7, 2]).astype(np.float32)
    entry = RNG.normal(size=[8, 4, 2]).astype(np.float32)
    condition = np.arange(8) % 3 == 1

    def write(memory: mtf.Tensor, entry: mtf.Tensor, condition: mtf.Tensor) -> mtf.Tensor:
        five = mtf.constant(mesh, 5, dtype=tf.int32)
        return mtf.write_position(memory, entry, MEMORY, five, condition)

    written = mtf.function(write, jit_compile=jit and not mesh.is_distributed)(
        mtf.import_tf_tensor(mesh, memory, [("batch", 8), ("heads", 4), MEMORY, ("d_kv", 2)]),
        mtf.import_tf_tensor(mesh, entry, [("batch", 8), ("heads", 4), ("d_kv", 2)]),
        mtf.import_tf_tensor(mesh, condition, [("batch", 8)]),
    )
    expected = memory.copy()
    expected[condition, :, 5] = entry[condition]
    np.testing.assert_array_equal(mtf.to_numpy(written), expected)


def test_the_initial_query_projection_contains_the_scale_of_the_logits() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    heads = layers.AttentionHeads(num_heads=4, d_kv=64)
    attention = layers.MultiHeadAttention(mesh, mtf.Dimension("d_model", 256), heads=heads)
    mtf.initialize(attention, 0)
    deviations = {n: mtf.to_numpy(v).std() for n, v in attention.named_variables().items()}
    assert deviations["query"] == pytest.approx(256**-0.5 * 64**-0.5, rel=0.02)
    assert deviations["key"] == pytest.approx(256**-0.5, rel=0.02)
    assert deviations["output"] == pytest.approx((4 * 64) ** -0.5, rel=0.02)
