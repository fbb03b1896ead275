"""Decoding after prompts that were read in one pass equals decoding after steps over them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import decoding, mtf
from mtfrun.extras import huggingface, vision
from mtfrun.models import moe
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import LAYOUT, VOCABULARY, hypotheses_of, logits_of, on_mesh
from tests.models.test_kinds_of_attention import (
    ATTENTION,
    HEADS,
    ONE_MEMORY_HEAD,
    RELATIVE,
    TWO_MEMORY_HEADS,
)
from tests.models.test_kinds_of_attention import KINDS as ALL_KINDS

TWO_BY_TWO = "data:2,model:2"
ROWS, LENGTH, END = 8, 36, decoding.END_ID
PROMPT_SIZES = np.asarray([5, 7, 5, 9, 13, 6, 11, 8])

IMAGE = vision.ImageSize(6, 6)
LOCAL_ATTENTION = functools.partial(t.LocalSelfAttention, heads=HEADS)
EXPERTS = functools.partial(moe.Experts, hidden_size=8)
FEED_FORWARD = functools.partial(t.FeedForward, d_ff=32)


class Total(t.Sublayer):
    """The sum of all positions so far: a layer of a user, without a `prefill`."""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension, dtypes: Any, **heads: int) -> None:
        super().__init__()
        self._mesh, self._d_model = mesh, d_model

    def __call__(self, x: mtf.Tensor, call: t.SequenceCall) -> mtf.Tensor:
        return mtf.cumsum(x, x.shape.get_dim_by_name("length"))

    def initial_state(self, batch: Any, memory_length: mtf.Dimension, call: t.SequenceCall) -> Any:
        return mtf.zeros(self._mesh, [*batch, self._d_model])

    def step(self, x: mtf.Tensor, state: Any, call: t.SequenceCall) -> tuple[mtf.Tensor, Any]:
        return state + x, state + x


# (attention, options of the stack, the model's position class, the layer beside attention)
KINDS: dict[str, tuple[Any, dict[str, Any], Any, Any]] = {
    "learned positions": (ATTENTION, {}, t.PositionalEmbedding, FEED_FORWARD),
    **{
        kind: (*ALL_KINDS[kind], FEED_FORWARD)
        for kind in (
            *("relative in each layer", "grouped, relative, rotary"),
            *("talking heads", "synthetic, gated"),
            *("convolution", "depthwise convolution"),
            *("convolution by predicted filters", "branches of convolutions"),
            *("by experts, relative", "grouped queries by experts"),
            "local, shared keys and values, an extra logit",
            "shared keys and values, an extra logit",
            *("compressed", "masked local", "spatial blocks"),
        )
    },
    "multi-query, one level of experts": (
        functools.partial(t.SelfAttention, heads=ONE_MEMORY_HEAD),
        {},
        t.SinusoidPositions,
        functools.partial(
            moe.MoE1D, num_experts=4, experts=EXPERTS, capacity=moe.Capacity(group_size=24)
        ),
    ),
    "grouped, experts without a capacity": (
        functools.partial(t.SelfAttention, heads=TWO_MEMORY_HEADS),
        {},
        t.PositionalEmbedding,
        functools.partial(moe.DroplessMoE, num_experts=4, experts=EXPERTS),
    ),
    "two levels of experts": (
        ATTENTION,
        {},
        t.PositionalEmbedding,
        functools.partial(
            moe.MoE2D, num_experts=(2, 2), experts=EXPERTS, capacity=moe.Capacity(group_size=12)
        ),
    ),
    "local, relative, rotary": (
        functools.partial(LOCAL_ATTENTION, window=4, rotary=True),
        {"relative_bias": RELATIVE},
        None,
        FEED_FORWARD,
    ),
    "local and grouped, relative in each layer": (
        functools.partial(
            LOCAL_ATTENTION, heads=TWO_MEMORY_HEADS, window=6, relative_bias=RELATIVE
        ),
        {},
        None,
        FEED_FORWARD,
    ),
    # Between the first two sizes of growing caches, and larger than rows.
    **{
        f"local, {window} positions": (
            functools.partial(LOCAL_ATTENTION, window=window),
            {},
            t.PositionalEmbedding,
            FEED_FORWARD,
        )
        for window in (22, 64)
    },
    "windows of an image": (
        functools.partial(vision.LocalImageAttention, heads=HEADS, image=IMAGE, rows=1, cols=2),
        {},
        functools.partial(vision.ImagePositions, image=IMAGE),
        FEED_FORWARD,
    ),
}
# Steps of these do not give the logits of whole sequences: their windows end elsewhere, or mixtures
# drop tokens.
OTHER_THAN_SEQUENCES = {
    "masked local",
    "multi-query, one level of experts",
    "two levels of experts",
}
# The original's attentions, which read prompts step by step.
WITHOUT_PREFILL = {"compressed", "masked local", "spatial blocks"}


def model_of_kind(mesh: mtf.Mesh, kind: str) -> t.DecoderOnly:
    attention, stack_options, position, beside = KINDS[kind]
    return _model_of(mesh, [attention, beside], position, **stack_options)


def _model_of(mesh: mtf.Mesh, layers: list[Any], position: Any, **options: Any) -> t.DecoderOnly:
    stack = functools.partial(t.Stack, num_layers=2, layers=layers, **options)
    model = t.DecoderOnly(
        mesh,
        VOCABULARY,
        embedding=t.TokenEmbedding(16, max_length=LENGTH, position=position, tied_softmax=False),
        stack=stack,
    )
    mtf.initialize(model, seed=4)
    return model


def random_ids() -> np.ndarray:
    return np.random.default_rng(1).integers(2, VOCABULARY, [ROWS, LENGTH]).astype(np.int32)


def random_prompts() -> np.ndarray:
    """Returns prompts of five to thirteen ids, one of them with an end inside."""
    prompts = random_ids() * (np.arange(LENGTH) < PROMPT_SIZES[:, np.newaxis])
    prompts[3, 6] = END
    return prompts


def _logits_of_steps(
    mesh: mtf.Mesh, kind: str, first: int, known: np.ndarray | None = None
) -> np.ndarray:
    """Returns logits [rows, positions from first on, vocab]; the cache grows at position 20.

    The first `known` ids of every row are read in one pass.
    """
    model, ids = model_of_kind(mesh, kind), random_ids()
    batch = mtf.Dimension("batch", ROWS)
    features = on_mesh(mesh, {"targets": ids})
    # Not made in the traced functions: of a constant with equal entries DTensor loses the layout.
    sizes = None if known is None else mtf.import_tf_tensor(mesh, known.astype(np.int32), [batch])

    def decoder_of(room: int) -> decoding.Decoder:
        decoder = model.decoder(features)
        if known is not None:
            assert decoder.at_once is not None and sizes is not None
            decoder = decoder.at_once(int(known.max()), sizes)
        assert decoder.within is not None
        return decoder.within(room)

    def step(room: int, ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> Any:
        decoder = decoder_of(room)
        return decoder.step(ids, position, decoding.fit_state(state, decoder.initial_state))

    steps = {room: mtf.function(functools.partial(step, room)) for room in (20, LENGTH)}
    state = mtf.function(lambda: decoder_of(20).initial_state)()
    previous = np.pad(ids, [(0, 0), (1, 0)])[:, :-1]
    all_logits = []
    for position in range(first, 26):
        before = mtf.import_tf_tensor(mesh, previous[:, position], [batch])
        now = mtf.constant(mesh, position, dtype=tf.int32)
        logits, state = steps[20 if position < 20 else LENGTH](before, now, state)
        all_logits.append(mtf.to_numpy(logits))
    return np.stack(all_logits, axis=1)


@functools.cache
def read_step_by_step(kind: str) -> np.ndarray:
    return _logits_of_steps(mtf.Mesh(ONE_DEVICE), kind, 0)


# Of the other kinds a mesh reads prompts before blocks of positions, see CASES.
ON_A_MESH = (
    *("convolution", "convolution by predicted filters", "branches of convolutions"),
    *("learned positions", "local, 64 positions", "multi-query, one level of experts"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, mesh_shape, first",
    [
        *((kind, TWO_BY_TWO, 5) for kind in ON_A_MESH),
        ("grouped, relative, rotary", ONE_DEVICE, 13),
        ("local, relative, rotary", ONE_DEVICE, 13),
    ],
)
def test_steps_after_a_prefill_are_those_after_steps(
    kind: str, mesh_shape: str, first: int
) -> None:
    """Steps before the last id of a row was read change nothing in it."""
    expected = read_step_by_step(kind)[:, first:]
    known = np.maximum(PROMPT_SIZES, first)
    actual = _logits_of_steps(mtf.Mesh(mesh_shape, LAYOUT), kind, first, known)
    for row, size in enumerate(known - first):
        assert_close(actual[row, size:], expected[row, size:], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OTHER_THAN_SEQUENCES])
def test_steps_give_the_logits_of_whole_sequences(kind: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    whole = logits_of(model_of_kind(mesh, kind), mesh, {"targets": random_ids()})
    assert_close(read_step_by_step(kind), whole[:, :26], FLOAT32_MODEL_TOLERANCE)


SEARCHES = {
    "greedy": decoding.Search(),
    "sampling": decoding.Search(temperature=1.0, top_k=6, seed=3),
    "beam": decoding.Search(beam_size=3),
}


def _decoded(
    mesh: mtf.Mesh,
    model: t.DecoderOnly,
    search: decoding.Search,
    rows: list[int],
    *,
    at_once: bool,
    jit: bool = False,
) -> Any:
    """Returns the hypotheses of some of the prompts as one batch, limits of 30 and fewer ids."""
    return hypotheses_of(
        model,
        mesh,
        search,
        random_prompts()[rows],
        lines=rows,
        at_once=at_once,
        jit=jit,
        limits=[30 - row * 3 for row in rows],
        longest_prompt=int(PROMPT_SIZES.max()),
    )


@functools.cache
def _decoded_step_by_step(kind: str, search: decoding.Search) -> Any:
    mesh = mtf.Mesh(ONE_DEVICE)
    return _decoded(mesh, model_of_kind(mesh, kind), search, list(range(ROWS)), at_once=False)


def _assert_same(actual: Any, expected: Any) -> None:
    np.testing.assert_array_equal(actual.ids, expected.ids)
    np.testing.assert_array_equal(actual.finished, expected.finished)
    assert_close(actual.scores, expected.scores, FLOAT32_MODEL_TOLERANCE)


# The default suite has the first one.
SEARCH_CASES = [
    ("learned positions", "greedy", ONE_DEVICE),
    *(("grouped, relative, rotary", name, TWO_BY_TWO) for name in SEARCHES),
    *((kind, [*SEARCHES][i % 3], ONE_DEVICE) for i, kind in enumerate([*KINDS][1:], 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind, name, mesh_shape", SEARCH_CASES)
def test_searches_find_the_same_as_step_by_step(kind: str, name: str, mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    actual = _decoded(
        mesh, model_of_kind(mesh, kind), SEARCHES[name], list(range(ROWS)), at_once=True
    )
    _assert_same(actual, _decoded_step_by_step(kind, SEARCHES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_program_of_xla_finds_the_same(name: str) -> None:
    mesh, kind = mtf.Mesh(ONE_DEVICE), "local, relative, rotary"
    actual = _decoded(
        mesh, model_of_kind(mesh, kind), SEARCHES[name], list(range(ROWS)), at_once=True, jit=True
    )
    _assert_same(actual, _decoded_step_by_step(kind, SEARCHES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grouped, relative, rotary", "local, relative, rotary"])
def test_the_rounding_of_a_row_does_not_depend_on_the_others(kind: str) -> None:
    """Steps begin elsewhere, and repeat other parts of the prompt."""
    mesh = mtf.Mesh(ONE_DEVICE)
    model = model_of_kind(mesh, kind)
    batches = (list(range(ROWS)), [7, 1, 4, 4, 4, 4, 4, 4])
    some, others = (
        _decoded(mesh, model, SEARCHES["greedy"], rows, at_once=True, jit=True) for rows in batches
    )
    for actual, expected in zip(tf.nest.flatten(some), tf.nest.flatten(others), strict=True):
        np.testing.assert_array_equal(actual[1], expected[1])
        np.testing.assert_array_equal(actual[4], expected[4])


def test_a_layer_without_a_prefill_reads_prompts_step_by_step() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model_of(mesh, [Total, FEED_FORWARD], t.PositionalEmbedding)
    assert model.decoder(on_mesh(mesh, {"targets": random_prompts()})).at_once is None
    actual = _decoded(mesh, model, SEARCHES["greedy"], list(range(ROWS)), at_once=True)
    ids = actual.ids[:, 0]
    logits = logits_of(model, mesh, {"targets": ids})
    for row in (0, 4):
        size, stop = PROMPT_SIZES[row], np.count_nonzero(ids[row])
        assert stop > size
        np.testing.assert_array_equal(ids[row, :size], random_prompts()[row, :size])
        np.testing.assert_array_equal(ids[row, size:stop], logits[row, size:stop].argmax(-1))


def test_an_end_within_a_prompt_ends_nothing() -> None:
    ids = _decoded_step_by_step("learned positions", SEARCHES["greedy"]).ids[3, 0]
    size = PROMPT_SIZES[3]
    assert END in random_prompts()[3, : size - 1]
    np.testing.assert_array_equal(ids[:size], random_prompts()[3, :size])
    assert np.count_nonzero(ids[size:])


def test_local_attention_keeps_no_more_than_its_window() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    features = on_mesh(mesh, {"targets": random_prompts()})
    for window, places in ((4, 4), (LENGTH - 1, LENGTH - 1), (LENGTH, LENGTH), (64, LENGTH)):
        attention = functools.partial(LOCAL_ATTENTION, window=window)
        model = _model_of(mesh, [attention, FEED_FORWARD], t.PositionalEmbedding)
        states = tf.nest.flatten(model.decoder(features).initial_state)
        assert len(states) == 4
        expected = mtf.convert_to_shape(f"batch:{ROWS};heads:4;window_length:{places};d_kv:4")
        assert all(state.shape == expected for state in states)


def test_frequencies_by_length_do_not_depend_on_padding() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    rotary = t.RotaryPositions(scaling=huggingface.DynamicScaling(3.0, original_length=4))
    layer = t.SelfAttention(mesh, mtf.Dimension("d_model", 8), heads=HEADS, rotary=rotary)
    mtf.initialize(layer, seed=0)
    x, lengths = np.random.default_rng(0).normal(size=[2, 12, 8]), [6, 8]

    def keys(x: np.ndarray, lengths: list[int]) -> np.ndarray:
        rows = [mtf.Dimension("batch", len(x)), mtf.Dimension("length", x.shape[1])]
        vectors = mtf.constant(mesh, x, [*rows, mtf.Dimension("d_model", 8)], tf.float32)
        progress = t.DecodingProgress(None, mtf.constant(mesh, lengths, rows[:1], tf.int32))
        _, state = layer.prefill(vectors, None, t.SequenceCall(progress=progress))
        result: np.ndarray = mtf.to_numpy(state.keys)
        return result

    together = keys(x, lengths)
    for row, length in enumerate(lengths):  # the first step reads one id more
        alone = keys(x[row : row + 1, : length + 1], [length])
        assert_close(together[row, :, :length], alone[0, :, :length], FLOAT32_MODEL_TOLERANCE)


SIZE = 4
# Layers that read positions one after the other only.
WITHOUT_BLOCKS = {
    *WITHOUT_PREFILL,
    *("convolution by predicted filters", "branches of convolutions"),
}


def _logits(mesh: mtf.Mesh, kind: str) -> np.ndarray:
    """Returns the logits [rows, 2 * SIZE, vocab] behind the prompts, from two blocks a row.

    Before that a block with wrong ids has been at the same positions.
    """
    model, ids = model_of_kind(mesh, kind), random_ids()
    batch, block = mtf.Dimension("batch", ROWS), mtf.Dimension("block", SIZE)
    before = np.pad(ids, [(0, 0), (1, 0)])

    def run(features: Any, sizes: mtf.Tensor, *blocks: mtf.Tensor) -> list[mtf.Tensor]:
        one_by_one = model.decoder(features)
        assert one_by_one.in_blocks is not None
        decoder = one_by_one.in_blocks()
        assert decoder.at_once is not None
        decoder = decoder.at_once(int(PROMPT_SIZES.max()), sizes)
        assert decoder.within is not None
        decoder = decoder.within(LENGTH + SIZE)
        state, results = decoder.initial_state, []
        for offset, ids in zip((2, 0, SIZE), blocks, strict=True):
            first = sizes + offset
            at = mtf.add(first, mtf.range(mesh, block), output_shape=[batch, block])
            logits, state = decoder.step(ids, at, state)
            results.append(logits)
        return results[1:]

    def block_at(offset: int) -> mtf.Tensor:
        index = PROMPT_SIZES[:, np.newaxis] + offset + np.arange(SIZE)
        value = np.take_along_axis(before, index, axis=1)
        return mtf.import_tf_tensor(mesh, value, [batch, block])

    blocks = [block_at(9), block_at(0), block_at(SIZE)]
    sizes = mtf.import_tf_tensor(mesh, PROMPT_SIZES.astype(np.int32), [batch])
    compiled = mtf.function(run, jit_compile=mesh.decodes_by_xla)
    results = compiled(on_mesh(mesh, {"targets": ids}), sizes, *blocks)
    return np.concatenate([mtf.to_numpy(x) for x in results], axis=1)


QUICK_CASES = {("local, relative, rotary", ONE_DEVICE)}
# They differ from others in the sizes of their windows.
WINDOWS = ("local, 22 positions", "local, 64 positions")
CASES = [
    pytest.param(kind, shape, marks=[] if (kind, shape) in QUICK_CASES else [pytest.mark.slow])
    for kind in KINDS
    if kind not in WITHOUT_BLOCKS
    for shape in (ONE_DEVICE, TWO_BY_TWO)
    if (shape == ONE_DEVICE) == (kind in WINDOWS) or (kind, shape) in QUICK_CASES
]


@pytest.mark.parametrize("kind, mesh_shape", CASES)
def test_blocks_of_positions_have_the_logits_of_single_steps(kind: str, mesh_shape: str) -> None:
    actual = _logits(mtf.Mesh(mesh_shape, LAYOUT), kind)
    expected = read_step_by_step(kind)
    for row, size in enumerate(PROMPT_SIZES):
        assert_close(actual[row], expected[row, size : size + 2 * SIZE], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("kind", sorted(WITHOUT_BLOCKS))
def test_layers_that_cannot_return_to_a_position_have_no_blocks(kind: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    assert (
        model_of_kind(mesh, kind).decoder(on_mesh(mesh, {"targets": random_ids()})).in_blocks
        is None
    )
