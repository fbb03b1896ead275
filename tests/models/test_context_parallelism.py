"""Sequences split over devices: losses and gradients of one device, memory of a part."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest

from mtfrun import decoding, layers, mtf
from mtfrun.models import transformer as t
from mtfrun.models.transformer.tokens.token_model import TokenModel
from tests.bench.attention import measured, planned
from tests.layouts import ONE_DEVICE
from tests.models.small_model import (
    VOCABULARY,
    Step,
    assert_same_step,
    hypotheses_of,
    training_step,
    with_dropout,
)

LAYOUT = "batch:data;length:model;max_length:model"
HEADS, GROUPED = t.AttentionHeads(4, d_kv=4), t.AttentionHeads(8, num_memory_heads=4, d_kv=4)
BIASED = t.AttentionHeads(8, 4, d_kv=4, scaled_logits=True, use_bias=True, use_output_bias=True)
NORMED, SCALED = (
    t.AttentionHeads(8, 4, d_kv=4, norm=t.RMSNorm, norm_heads=heads, logits_cap=2.0)
    for heads in ("together", "apart")
)
SHARED_KV = t.AttentionHeads(8, 4, d_kv=4, shared_kv=True, extra_logit=0.0)
RELATIVE = functools.partial(
    layers.RelativePositionBias, num_heads=4, num_buckets=8, max_distance=12
)
BATCH, LENGTH, INPUTS_LENGTH = 8, 16, 8


class Case(NamedTuple):
    """A model, and the features that it reads beside those of its class."""

    model: str
    attention: dict[str, Any] = {}  # noqa: RUF012 - a default that nothing changes
    heads: t.AttentionHeads = HEADS
    packed: bool = False
    stack: dict[str, Any] = {}  # noqa: RUF012 - a default that nothing changes
    window: int | None = None


CASES = {
    "packed, relative positions": Case(
        "decoder", packed=True, stack={"relative_bias": RELATIVE, "rematerialise": True}
    ),
    "rotary positions, grouped heads": Case("decoder", {"rotary": True}, GROUPED),
    "biases": Case("decoder", {"rotary": True}, BIASED),
    "norms of all heads": Case("decoder", {"rotary": True}, NORMED),
    "norms by head": Case("decoder", {"rotary": True}, SCALED),
    "shared keys and values": Case("pairs", heads=SHARED_KV),
    "prefix": Case("prefix", {"relative_bias": RELATIVE}),
    "window": Case("decoder", window=3),
    "encoder": Case("encoder"),
    "encoder and decoder": Case("pairs", packed=True, stack={"relative_bias": RELATIVE}),
}
QUICK = ("rotary positions, grouped heads", "data:2,model:2", 5)
# Of the cases with most layers or features: blocks alone, and all heads apart.
ALONE = [("encoder and decoder", ONE_DEVICE, 5), ("biases", ONE_DEVICE, 5)]
APART = ("packed, relative positions", "shared keys and values", "window")


def _model(mesh: mtf.Mesh, case: Case, block_length: int | None) -> TokenModel:
    options: dict[str, Any] = {"heads": case.heads, "dropout_rate": 0.2}
    in_blocks = options | {"block_length": block_length}
    attention: Any = functools.partial(t.SelfAttention, **in_blocks, **case.attention)
    if case.window is not None:
        attention = functools.partial(t.LocalSelfAttention, window=case.window, **options)
    feed_forward = functools.partial(t.FeedForward, d_ff=16)
    stack = functools.partial(
        t.Stack, num_layers=1, transforms=with_dropout(0.2), layers=[attention, feed_forward]
    )
    stack = functools.partial(stack, **case.stack)
    embedding = t.TokenEmbedding(d_model=8, max_length=LENGTH)
    model: TokenModel
    if case.model == "pairs":
        cross = functools.partial(t.EncoderDecoderAttention, **in_blocks)
        decoder = functools.partial(stack, layers=[attention, cross, feed_forward])
        model = t.EncoderDecoder(
            mesh, VOCABULARY, encoder=stack, decoder=decoder, embedding=embedding
        )
    elif case.model == "encoder":
        model = t.EncoderOnly(mesh, VOCABULARY, stack=stack, embedding=embedding)
    else:
        prefix = case.model == "prefix"
        model = t.DecoderOnly(mesh, VOCABULARY, stack=stack, embedding=embedding, prefix=prefix)
    mtf.initialize(model, seed=1)
    return model


def _features(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"targets": LENGTH}
    if case.model in ("encoder", "pairs"):
        sizes["inputs"] = INPUTS_LENGTH if case.model == "pairs" else LENGTH
    features = {name: rng.integers(1, VOCABULARY, [BATCH, size]) for name, size in sizes.items()}
    if case.packed:
        for name, size in sizes.items():
            features[f"{name}_segmentation"] = np.sort(rng.integers(1, 4, [BATCH, size]), axis=1)
            features[f"{name}_position"] = np.tile(np.arange(size), [BATCH, 1])
    return features


@functools.cache
def _step(name: str, mesh_shape: str, block_length: int | None) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = _model(mesh, CASES[name], block_length)
    return training_step(model, mesh, _features(CASES[name]))


@pytest.mark.parametrize(
    "name, mesh_shape, block_length",
    [
        pytest.param(*case, marks=[] if case == QUICK else [pytest.mark.slow])
        for case in [
            *((name, "data:2,model:2", 5) for name in CASES),
            *((name, "data:1,model:4", None) for name in APART),
            *ALONE,
        ]
    ],
)
def test_a_split_length_and_blocks_change_neither_loss_nor_gradients(
    name: str, mesh_shape: str, block_length: int | None
) -> None:
    assert_same_step(_step(name, mesh_shape, block_length), _step(name, ONE_DEVICE, None))


@pytest.mark.slow
def test_heads_may_be_split_over_another_axis() -> None:
    case = CASES["packed, relative positions"]

    def step(mesh_shape: str) -> Step:
        mesh = mtf.Mesh(mesh_shape, "heads:data;d_ff:data;length:model")
        return training_step(_model(mesh, case, 5), mesh, _features(case))

    assert_same_step(step("data:2,model:2"), step(ONE_DEVICE))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["packed, relative positions", "window"])
def test_decodes_are_the_same_where_the_length_is_split(name: str) -> None:
    prompts = np.zeros([BATCH, LENGTH], np.int32)
    prompts[:, :5] = np.arange(1, 6)

    def ids(mesh_shape: str) -> np.ndarray:
        mesh = mtf.Mesh(mesh_shape, LAYOUT)
        model = _model(mesh, CASES[name], 5)
        return hypotheses_of(model, mesh, decoding.Search(), prompts).ids

    np.testing.assert_array_equal(ids("data:2,model:2"), ids(ONE_DEVICE))


def test_the_devices_of_the_length_must_divide_the_heads() -> None:
    mesh = mtf.Mesh("data:1,model:4", LAYOUT)
    one_memory_head = t.AttentionHeads(4, num_memory_heads=1, d_kv=4)
    attention = layers.MultiHeadAttention(mesh, mtf.Dimension("d_model", 8), heads=one_memory_head)
    mtf.initialize(attention, seed=0)
    x = mtf.zeros(mesh, "length:8;d_model:8")
    with pytest.raises(mtf.LayoutError, match=r"^length:8 is split over 4 devices, .* 1 heads"):
        attention.over_sequences(x, x, layers.NO_BIAS, layers.Call())


DEVICES = 4
# Sizes with which activations take most: of the variables, which every device has whole, 6 MB.
SIZES = ["--block=512", "--d_model=256", "--num_layers=1", "--length=8192"]
# What a device needs in a step, to what it needs with whole sequences. Beyond a quarter there are
# the gradients of the variables, and the exchanged heads beside the returned ones.
LARGEST_PLANNED = 0.28
# By TensorFlow's allocator, see docs/long_sequences.md; 0.28 at these sizes.
LARGEST_MEASURED = 0.3


@pytest.mark.slow
def test_a_device_is_planned_to_need_little_more_than_its_part() -> None:
    one, several = planned(1, SIZES), planned(DEVICES, SIZES)
    assert several["step_mb"] <= LARGEST_PLANNED * one["step_mb"]
    assert several["constants_mb"] <= one["constants_mb"] / 2


@pytest.mark.slow
def test_the_tensors_of_a_process_take_little_more_than_their_part() -> None:
    sizes = [*SIZES, "--steps=1"]
    (one,) = measured(1, sizes)
    several = measured(DEVICES, sizes)
    for process in several:
        assert process["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert process["tensors_mb"] <= LARGEST_MEASURED * one["tensors_mb"]
