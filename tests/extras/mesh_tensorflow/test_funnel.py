"""Funnel stacks: windows after pooling, encoder-decoders with a funnel, and refusals."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.extras.mesh_tensorflow.parity.transformers import share_layers
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    PAIRS_BATCH,
    VOCABULARY,
    Step,
    assert_same_step,
    assert_steps_equal_whole_rows,
    on_mesh,
    packed_pairs,
    packed_rows,
    small_encoder_decoder,
    training_step,
    with_dropout,
)

HEADS = t.AttentionHeads(num_heads=4, d_kv=4)
RELATIVE = functools.partial(t.RelativePositionBias, num_heads=4, num_buckets=8, max_distance=6)
LAYERS = [
    functools.partial(t.SelfAttention, heads=HEADS, dropout_rate=0.2),
    functools.partial(t.FeedForward, d_ff=32, dropout_rate=0.2),
]
WIDTH = mtf.Dimension("d_model", 16)
X = np.random.default_rng(0).normal(size=[2, 8, 16]).astype(np.float32)
# The second document begins inside a window, and so does padding.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0, 0]], np.int32)
FIRST = SEGMENTS[:, ::2]


def _call(segments: np.ndarray, mesh: mtf.Mesh) -> t.SequenceCall:
    shape = ["batch:2", f"length:{segments.shape[1]}"]
    ids = mtf.import_tf_tensor(mesh, segments, shape)
    bias = layers.mask_segments(layers.NO_BIAS, ids)
    nonpadding = mtf.to_float(mtf.greater(ids, 0))
    return t.SequenceCall(
        self_attention_bias=bias, bidirectional=True, segments=ids, nonpadding=nonpadding
    )


def _import(x: np.ndarray, mesh: mtf.Mesh) -> mtf.Tensor:
    return mtf.import_tf_tensor(mesh, x, ["batch:2", f"length:{x.shape[1]}", WIDTH])


@pytest.mark.parametrize("kind", ["mean", "max", "min"])
@pytest.mark.parametrize("across_documents", [False, True])
def test_a_window_is_pooled_over_its_first_document(kind: str, across_documents: bool) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    funnel = zoo.Funnel(kind=kind, across_documents=across_documents)
    pooled = mtf.to_numpy(funnel.pool(_import(X, mesh), _call(SEGMENTS, mesh)))
    counts = (np.repeat(FIRST, 2, axis=1) == SEGMENTS) | across_documents
    entries = np.where(counts[..., np.newaxis], X, np.nan).reshape([2, 4, 2, 16])
    assert_close(pooled, getattr(np, f"nan{kind}")(entries, axis=2), FLOAT32_OP_TOLERANCE)


def test_positions_after_pooling_have_the_call_of_their_windows() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    call = _call(SEGMENTS, mesh)
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 0, 0, 0]], np.int32)
    of_texts = mtf.import_tf_tensor(mesh, positions, ["batch:2", "length:8"])
    call = zoo.Funnel().shorten(dataclasses.replace(call, text_positions=of_texts))
    assert call.segments is not None and call.nonpadding is not None
    np.testing.assert_array_equal(mtf.to_numpy(call.segments), FIRST)
    np.testing.assert_array_equal(mtf.to_numpy(call.nonpadding), FIRST > 0)
    np.testing.assert_array_equal(mtf.to_numpy(call.text_positions), positions[:, ::2] // 2)
    bias = call.self_attention_bias.value()
    assert bias is not None
    is_visible = FIRST[:, :, np.newaxis] == FIRST[:, np.newaxis]
    np.testing.assert_array_equal(mtf.to_numpy(bias) == 0, is_visible)


def _stack(mesh: mtf.Mesh, funnel: zoo.Funnel) -> zoo.FunnelStack:
    stack = zoo.FunnelStack(mesh, WIDTH, funnel=funnel, layers=LAYERS, relative_bias=RELATIVE)
    mtf.initialize(stack, seed=1)
    return stack


def test_a_document_does_not_depend_on_its_neighbours() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack, call = _stack(mesh, zoo.Funnel([1, 1])), _call(SEGMENTS, mesh)
    changed = np.where(SEGMENTS[..., np.newaxis] == 1, X, X + 1.0)
    before, after = (mtf.to_numpy(stack(_import(x, mesh), call)) for x in (X, changed))
    is_first = FIRST == 1
    assert_close(after[is_first], before[is_first], FLOAT32_OP_TOLERANCE)
    assert np.abs(after - before)[FIRST == 2].max() > 0.01


def test_repeated_blocks_have_the_same_variables() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    call = _call(SEGMENTS, mesh)
    stack = _stack(mesh, zoo.Funnel([1], repeats=[3]))
    expected = zoo.UniversalStack(
        mesh,
        WIDTH,
        recurrence=zoo.Recurrence(3, signals=None),
        layers=LAYERS,
        relative_bias=RELATIVE,
    )
    share_layers(expected, stack)
    x = _import(X, mesh)
    assert_close(mtf.to_numpy(stack(x, call)), mtf.to_numpy(expected(x, call)))


def _model(mesh: mtf.Mesh, *, rematerialise: bool = False, **funnel: Any) -> t.EncoderDecoder:
    encoder = functools.partial(
        zoo.FunnelStack,
        funnel=zoo.Funnel(**{"num_layers": [1, 1], "repeats": [1, 2], **funnel}),
        layers=LAYERS,
        transforms=with_dropout(0.2),
        relative_bias=RELATIVE,
        rematerialise=rematerialise,
    )
    return small_encoder_decoder(mesh, encoder=encoder)


@functools.cache
def _step(mesh_shape: str, *, rematerialise: bool = False) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    return training_step(_model(mesh, rematerialise=rematerialise), mesh, packed_pairs())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "rematerialise"), [("data:2,model:2", False), (ONE_DEVICE, True)]
)
def test_neither_a_layout_nor_recomputed_values_change_a_step(
    mesh_shape: str, rematerialise: bool
) -> None:
    assert_same_step(_step(mesh_shape, rematerialise=rematerialise), _step(ONE_DEVICE))


@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
def test_a_decoder_attends_to_the_pooled_positions(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    assert_steps_equal_whole_rows(_model(mesh, across_documents=True), mesh, beams=None)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_layers": [2, 0]}, "at least 1"),
        ({"kind": "sum"}, "'mean' or 'max' or 'min'"),
        ({"repeats": [1]}, "one for each part"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.Funnel(**settings)


def test_a_length_that_windows_do_not_divide_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack = _stack(mesh, zoo.Funnel([1, 1]))
    with pytest.raises(InputError, match="7, must be a multiple of 2"):
        stack(_import(X[:, :7], mesh), _call(SEGMENTS[:, :7], mesh))


def test_a_decoder_and_an_encoder_of_labels_are_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack = functools.partial(zoo.FunnelStack, funnel=zoo.Funnel([1, 1]), layers=LAYERS)
    embedding = t.TokenEmbedding(16, max_length=16)
    ids = mtf.ones(mesh, [mtf.Dimension("batch", PAIRS_BATCH), "length:8"], tf.int32)
    features = {"inputs": ids, "targets": ids}
    decoder = t.DecoderOnly(mesh, 16, embedding=embedding, stack=stack)
    encoder = t.EncoderOnly(mesh, 16, embedding=embedding, stack=stack)
    for model, message in ((decoder, "see later ones"), (encoder, "a target for every input")):
        mtf.initialize(model)
        with pytest.raises(InputError, match=message):
            model.logits(features)


NUM_STEPS, EPSILON = 4, 0.1


def _mixture(
    x: np.ndarray, unit: np.ndarray, *, accumulated: bool
) -> tuple[np.ndarray, int, float]:
    """Returns the mixture of steps that add 1 to x, their number, and the remainder."""
    mixed, total = np.zeros_like(x), 0.0
    for step in range(NUM_STEPS):
        p = 1.0 / (1.0 + np.exp(-(x @ unit)))
        is_last = total + p > 1.0 - EPSILON
        weight = 1.0 - total if is_last else p
        x = x + 1.0
        mixed = mixed * (1.0 if accumulated else 1.0 - weight) + weight * x
        if is_last:
            return mixed, step + 1, weight
        total += p
    return mixed, NUM_STEPS, 0.0


@pytest.mark.parametrize("combination", ["interpolated", "accumulated"])
def test_a_position_halts_as_by_the_formulas(combination: str) -> None:
    mesh, width = mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_model", 8)
    x = np.random.default_rng(0).normal(size=[2, 6, 8]).astype(np.float32)
    unit = np.random.default_rng(1).normal(size=[8]).astype(np.float32) - 0.2
    halting = zoo.Halting(mesh, width, epsilon=EPSILON, combination=combination, loss_weight=0.5)
    mtf.initialize(halting)
    halting.unit.kernel.variable.assign(unit[:, np.newaxis])
    tokens = np.asarray([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], np.float32)
    dims = ["batch:2", "length:6"]
    collector = layers.Collector()
    call = t.SequenceCall(collector=collector, nonpadding=mtf.import_tf_tensor(mesh, tokens, dims))
    vectors = mtf.import_tf_tensor(mesh, x, [*dims, width])
    y = halting(vectors, NUM_STEPS, lambda _, x: x, lambda _, x: x + 1.0, call)
    rows = [
        _mixture(row, unit, accumulated=combination == "accumulated") for row in x.reshape(-1, 8)
    ]
    mixed, number, remainder = (np.asarray(part, np.float32) for part in zip(*rows, strict=True))
    assert set(number) >= {1, 2, NUM_STEPS}
    assert_close(mtf.to_numpy(y), mixed.reshape(x.shape), FLOAT32_MODEL_TOLERANCE)
    of_layer = mtf.to_numpy(collector.contents)
    steps, cost = (float(v @ tokens.ravel()) for v in (number, number + remainder))
    path = halting.path
    assert_close(of_layer.metrics[f"{path}/ponder_steps"].total, np.float32(steps))
    assert_close(of_layer.metrics[f"{path}/ponder_cost"].total, np.float32(cost))
    assert_close(of_layer.losses[path], np.float32(0.5 * cost / tokens.sum()))


def test_signals_are_of_positions_in_the_texts_of_packed_rows() -> None:
    mesh, rows = mtf.Mesh(ONE_DEVICE), packed_rows()
    recurrence = zoo.Recurrence(num_steps=2)
    attention = functools.partial(t.SelfAttention, heads=t.AttentionHeads(4, d_kv=4))
    model = t.DecoderOnly(
        mesh,
        VOCABULARY,
        embedding=t.TokenEmbedding(16, position=None),
        stack=functools.partial(zoo.UniversalStack, recurrence=recurrence, layers=[attention]),
    )
    mtf.initialize(model, seed=2)
    packed = mtf.to_numpy(model.logits(on_mesh(mesh, rows)))
    for begin, end in ((0, 5), (5, 9)):
        alone = model.logits(on_mesh(mesh, {"targets": rows["targets"][:, begin:end]}))
        assert_close(packed[:, begin:end], mtf.to_numpy(alone), FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: zoo.Recurrence(num_steps=0),
        lambda: zoo.Halting(mtf.Mesh(), mtf.Dimension("d_model", 8), epsilon=1.0),
        lambda: zoo.Halting(mtf.Mesh(), mtf.Dimension("d_model", 8), combination="mean"),
        lambda: zoo.StepSignals(mtf.Mesh(), mtf.Dimension("d_model", 8), 2, steps="random"),
    ],
)
def test_wrong_settings_are_errors(make: functools.partial[object]) -> None:
    with pytest.raises(InputError, match=r"(Recurrence|Halting|StepSignals)\.\w+ is"):
        make()
