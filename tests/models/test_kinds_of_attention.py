"""Every kind of attention: step by step, under layouts, rematerialised, in bfloat16."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.extras import huggingface
from mtfrun.extras.mesh_tensorflow import parity, zoo
from mtfrun.layers import causal_bias
from mtfrun.models import moe
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    TARGETS_LENGTH,
    Step,
    assert_same_step,
    logits_of,
    logits_step_by_step,
    pairs,
    training_step,
)

VOCABULARY = 16
# Layers of bfloat16 (8 bits of mantissa) against float32.
BFLOAT16_MODEL_TOLERANCE = 0.05

HEADS = t.AttentionHeads(num_heads=4, d_kv=4)
ONE_MEMORY_HEAD = t.AttentionHeads(num_heads=4, num_memory_heads=1, d_kv=4)
TWO_MEMORY_HEADS = t.AttentionHeads(num_heads=4, num_memory_heads=2, d_kv=4)
ATTENTION = functools.partial(t.SelfAttention, heads=HEADS)
BIASED_HEADS = t.AttentionHeads(
    4, num_memory_heads=2, d_kv=4, scaled_logits=True, use_bias=True, use_output_bias=True
)
YARN = t.RotaryPositions(100.0, huggingface.YarnScaling(factor=2.0, original_length=8))
NORMED_HEADS = t.AttentionHeads(
    4,
    num_memory_heads=2,
    d_kv=4,
    scaled_logits=0.7,
    norm=functools.partial(t.RMSNorm, scale_offset=1.0),
    norm_heads="together",
    logits_cap=1.5,
)
HEADS_WITH_SCALES = t.AttentionHeads(
    4, d_kv=4, norm=functools.partial(t.LayerNorm, use_bias=False), norm_heads="apart"
)
SHARED_KV = t.AttentionHeads(
    4, num_memory_heads=2, d_kv=4, use_bias=True, shared_kv=True, extra_logit=0.5
)
TALKING_HEADS = zoo.TalkingHeads(
    [("key_heads", 3)],
    [("heads", 4)],
    [("value_heads", 2)],
    d_k=4,
    d_v=4,
    dynamic_logits=["query", "memory"],
    dynamic_weights=["query", "memory"],
    dynamic_scale=1.0,
)
LATENT_HEADS = huggingface.LatentHeads(
    4, d_latent=6, d_query_latent=5, d_kv=4, d_rotary=2, d_v=3, use_bias=True
)
RELATIVE = functools.partial(t.RelativePositionBias, num_heads=4, num_buckets=8, max_distance=6)

# Groups that two devices divide, and slots for all tokens of a group in evaluations.
MIXTURE = functools.partial(
    moe.MoE1D,
    num_experts=4,
    router=functools.partial(moe.Router, gate=moe.Switch()),
    capacity=moe.Capacity(evaluation=4.0, group_size=24),
)
BY_EXPERTS = zoo.ExpertProjections(
    mixture=MIXTURE, experts=functools.partial(moe.Experts, hidden_size=8)
)

# (options of self-attention, options of the stack, the model's position class)
KINDS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "relative": (ATTENTION, {"relative_bias": RELATIVE}, None),
    "relative in each layer": (functools.partial(ATTENTION, relative_bias=RELATIVE), {}, None),
    "rotary": (functools.partial(ATTENTION, rotary=True), {}, None),
    "sinusoid": (ATTENTION, {}, t.SinusoidPositions),
    "multi-query": (functools.partial(t.SelfAttention, heads=ONE_MEMORY_HEAD), {}, None),
    "grouped, relative, rotary": (
        functools.partial(t.SelfAttention, heads=TWO_MEMORY_HEADS, rotary=True),
        {"relative_bias": RELATIVE},
        None,
    ),
    "grouped, scaled, with biases": (
        functools.partial(t.SelfAttention, heads=BIASED_HEADS, rotary=YARN),
        {},
        None,
    ),
    "local, with biases": (
        functools.partial(t.LocalSelfAttention, heads=BIASED_HEADS, rotary=YARN, window=3),
        {},
        None,
    ),
    "norms of heads, limits, a part rotates": (
        functools.partial(
            t.SelfAttention, heads=NORMED_HEADS, rotary=t.RotaryPositions(100.0, rotated=2)
        ),
        {},
        None,
    ),
    "in parallel, local, scales of heads": (
        functools.partial(
            huggingface.Parallel,
            layers=[
                functools.partial(t.LocalSelfAttention, heads=HEADS_WITH_SCALES, window=3),
                functools.partial(t.FeedForward, d_ff=16),
            ],
            transforms=[t.LayerNorm, t.CallLayer],
        ),
        {
            "transforms": t.StackTransforms(
                initial=[t.ConstantFactor], layer=[t.CallLayer, t.RMSNorm, t.Residual]
            )
        },
        t.PositionalEmbedding,
    ),
    "grouped, falling with the distance": (
        functools.partial(t.SelfAttention, heads=TWO_MEMORY_HEADS),
        {"relative_bias": functools.partial(t.LinearDistanceBias, num_heads=4)},
        None,
    ),
    "local, relative": (
        functools.partial(t.LocalSelfAttention, heads=HEADS, window=3),
        {"relative_bias": RELATIVE},
        None,
    ),
    # In blocks, but for steps.
    "shared keys and values, an extra logit": (
        functools.partial(t.SelfAttention, heads=SHARED_KV, block_length=3),
        {"relative_bias": RELATIVE},
        None,
    ),
    "local, shared keys and values, an extra logit": (
        functools.partial(
            t.LocalSelfAttention, heads=dataclasses.replace(SHARED_KV, num_memory_heads=1), window=3
        ),
        {},
        t.PositionalEmbedding,
    ),
    "latent": (
        functools.partial(huggingface.LatentSelfAttention, heads=LATENT_HEADS, rotary=YARN),
        {},
        None,
    ),
    "latent, in blocks": (
        functools.partial(
            huggingface.LatentSelfAttention,
            heads=huggingface.LatentHeads(
                4, d_latent=6, d_kv=2, d_rotary=2, d_v=5, logits_scale=0.7
            ),
            block_length=3,
        ),
        {"relative_bias": RELATIVE},
        None,
    ),
    "talking heads": (
        functools.partial(zoo.TalkingHeadsSelfAttention, heads=TALKING_HEADS),
        {"relative_bias": RELATIVE},
        None,
    ),
    "synthetic, gated": (
        functools.partial(
            zoo.Synthesizer, num_heads=4, d_kv=4, logits=zoo.SyntheticLogits(max_length=40)
        ),
        {},
        None,
    ),
    "synthetic, predicted": (
        functools.partial(
            zoo.Synthesizer,
            num_heads=4,
            d_kv=4,
            logits=zoo.SyntheticLogits("dense", None, max_length=12),
        ),
        {"relative_bias": RELATIVE},
        None,
    ),
    "by experts, relative": (
        functools.partial(zoo.ExpertsSelfAttention, heads=HEADS, projections=BY_EXPERTS),
        {"relative_bias": RELATIVE},
        None,
    ),
    "grouped queries by experts": (
        functools.partial(
            zoo.ExpertsSelfAttention,
            heads=TWO_MEMORY_HEADS,
            projections=dataclasses.replace(BY_EXPERTS, by_experts=["query"], shared_kv=False),
        ),
        {},
        t.PositionalEmbedding,
    ),
    "convolution": (
        functools.partial(zoo.Convolution, window=t.ConvolutionWindow(-3, -1)),
        {},
        t.PositionalEmbedding,
    ),
    "depthwise convolution": (
        functools.partial(t.DepthwiseConvolution, window=t.ConvolutionWindow(-3)),
        {},
        t.PositionalEmbedding,
    ),
    "convolution by predicted filters": (
        functools.partial(
            zoo.GatedConvolution,
            convolution=functools.partial(
                t.DepthwiseConvolution,
                window=t.ConvolutionWindow(-2, 0, masks_start=True),
                filters=functools.partial(zoo.DynamicFilters, repeats=2),
            ),
        ),
        {},
        t.PositionalEmbedding,
    ),
    "branches of convolutions": (
        functools.partial(zoo.DecoderConvolutions, masks_start=True),
        {},
        t.PositionalEmbedding,
    ),
    "compressed": (
        functools.partial(
            parity.CompressedSelfAttention, num_heads=4, d_kv=4, compression_factor=2
        ),
        {},
        t.PositionalEmbedding,
    ),
    # Steps see the last positions only, and rows all: the same where the window is the row.
    "masked local": (
        functools.partial(parity.MaskedLocalAttention, num_heads=4, d_kv=4, window=TARGETS_LENGTH),
        {},
        t.PositionalEmbedding,
    ),
    "spatial blocks": (
        functools.partial(parity.SpatialBlockAttention, num_heads=4, d_kv=4, block_length=2),
        {},
        t.PositionalEmbedding,
    ),
    "gated, layer norm after": (
        ATTENTION,
        {
            "transforms": t.StackTransforms(
                layer=[t.CallLayer, t.SublayerDropout, t.Residual, t.LayerNorm], final=[t.LayerNorm]
            )
        },
        t.PositionalEmbedding,
    ),
}


SHARING_A_BIAS = {
    *("relative", "local, relative", "shared keys and values, an extra logit"),
    *("at once", "in blocks"),
}


def _model(
    kind: str, mesh: mtf.Mesh, *, rematerialise: bool = False, **options: Any
) -> t.EncoderDecoder:
    attention, stack_options, position = KINDS[kind]
    feed_forward: Any = functools.partial(t.FeedForward, d_ff=32)
    if "gated" in kind:
        feed_forward = functools.partial(t.GatedFeedForward, d_ff=32)
    to_encoder = functools.partial(t.EncoderDecoderAttention, heads=HEADS)
    stack = functools.partial(t.Stack, rematerialise=rematerialise, **stack_options)
    # Two layers where they share something, at once, within a window and in blocks.
    num_layers = 2 if kind in SHARING_A_BIAS else 1
    model = t.EncoderDecoder(
        mesh,
        VOCABULARY,
        embedding=t.TokenEmbedding(d_model=16, max_length=16, position=position),
        encoder=functools.partial(stack, num_layers=1, layers=[attention, feed_forward]),
        decoder=functools.partial(
            stack, num_layers=num_layers, layers=[attention, to_encoder, feed_forward]
        ),
        **options,
    )
    mtf.initialize(model, seed=3)
    return model


def _rows() -> dict[str, np.ndarray]:
    """Returns unpadded targets, for padding is a token while decoding."""
    rows = pairs()
    return {**rows, "targets": np.where(rows["targets"] == 0, 5, rows["targets"])}


@functools.cache
def _step(kind: str, mesh_shape: str, rematerialise: bool) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    return training_step(_model(kind, mesh, rematerialise=rematerialise), mesh, _rows())


@functools.cache
def _logits(kind: str) -> np.ndarray:
    mesh = mtf.Mesh(ONE_DEVICE)
    return logits_of(_model(kind, mesh), mesh, _rows())


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    # One of the branches has a filter that is longer than the rows, whose ends have no gradients.
    [kind for kind in KINDS if kind != "branches of convolutions"],
)
def test_loss_and_gradients_are_the_same_rematerialised_on_a_mesh(kind: str) -> None:
    assert_same_step(_step(kind, "data:2,model:2", True), _step(kind, ONE_DEVICE, False))


@pytest.mark.slow
def test_blocks_change_no_gradient_of_a_bias_that_layers_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = {"relative_bias": RELATIVE}
    layer = functools.partial(t.SelfAttention, heads=HEADS)
    monkeypatch.setitem(KINDS, "at once", (layer, shared, None))
    in_blocks = functools.partial(layer, block_length=3)
    monkeypatch.setitem(KINDS, "in blocks", (in_blocks, shared, None))
    expected, actual = (_step(kind, ONE_DEVICE, False) for kind in ("at once", "in blocks"))
    assert_same_step(actual, expected)


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_step_by_step_gives_the_logits_of_whole_rows(kind: str, mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = _model(kind, mesh)
    rows = _rows()
    logits = logits_step_by_step(model, mesh, {"inputs": rows["inputs"]}, rows["targets"])
    assert_close(logits, _logits(kind), FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["relative", "grouped, relative, rotary", "gated, layer norm after"]
)
def test_bfloat16_activations_stay_near_float32(kind: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(kind, mesh, dtypes=mtf.DTypePolicy(activation="bfloat16"))
    logits = logits_of(model, mesh, _rows())
    expected = _logits(kind)
    assert_close(logits, expected, BFLOAT16_MODEL_TOLERANCE)
    assert np.abs(logits - expected).max() > 1e-4


def test_local_attention_sees_its_window_only() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    heads = t.AttentionHeads(num_heads=2, d_kv=4)
    attention = t.LocalSelfAttention(mesh, mtf.Dimension("d_model", 8), heads=heads, window=3)
    mtf.initialize(attention)
    x = np.random.default_rng(0).normal(size=[7, 8]).astype(np.float32)
    changed = x.copy()
    changed[2] += 1.0

    def run(x: mtf.Tensor) -> mtf.Tensor:
        bias = causal_bias(mesh, mtf.Dimension("length", 7), None)
        return attention(x, t.SequenceCall(self_attention_bias=bias))

    before, after = (
        mtf.to_numpy(mtf.function(run)(mtf.import_tf_tensor(mesh, y, "length:7;d_model:8")))
        for y in (x, changed)
    )
    differs = np.abs(after - before).max(axis=1) > 1e-5
    np.testing.assert_array_equal(differs, [False, False, True, True, True, False, False])


def test_memory_heads_that_do_not_divide_the_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="num_memory_heads=3 must divide num_heads=4"):
        t.AttentionHeads(num_heads=4, num_memory_heads=3)


def test_an_encoder_only_model_sees_both_sides_but_no_padding() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    attention = functools.partial(t.SelfAttention, heads=t.AttentionHeads(2, d_kv=4))
    stack = functools.partial(t.Stack, num_layers=1, layers=[attention])
    embedding = t.TokenEmbedding(d_model=8, max_length=8)
    model = t.EncoderOnly(mesh, VOCABULARY, embedding=embedding, stack=stack)
    mtf.initialize(model)
    inputs = np.asarray([[3, 4, 5, 6, 0, 0]], np.int32)

    def logits(inputs: np.ndarray) -> np.ndarray:
        return logits_of(model, mesh, {"inputs": inputs})

    before = logits(inputs)
    later = logits(np.asarray([[3, 4, 5, 9, 0, 0]], np.int32))
    assert np.all(np.abs(later - before)[0, :4].max(axis=-1) > 1e-5)
    assert_close(before[:, :4], logits(inputs[:, :4]), FLOAT32_MODEL_TOLERANCE)
