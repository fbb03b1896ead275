"""A small encoder-decoder, and rows of pairs for it, packed and not."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.models.transformer import (
    AttentionHeads,
    EncoderDecoder,
    EncoderDecoderAttention,
    FeedForward,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.models.small_model import on_mesh, with_dropout
from tests.models.step_by_step import logits_step_by_step

VOCABULARY = 16
BATCH, INPUTS_LENGTH, TARGETS_LENGTH = 8, 10, 6


def small_encoder_decoder(
    mesh: mtf.Mesh,
    *,
    dropout_rate: float = 0.0,
    rematerialise: bool = False,
    cls: type[EncoderDecoder] = EncoderDecoder,
    **options: Any,
) -> EncoderDecoder:
    """Returns an initialised model of one layer each; `options` are those of EncoderDecoder."""
    heads = AttentionHeads(num_heads=4, d_kv=4)
    attention = functools.partial(SelfAttention, heads=heads, dropout_rate=dropout_rate)
    feed_forward = functools.partial(FeedForward, d_ff=32, dropout_rate=dropout_rate)
    stack = functools.partial(
        Stack, num_layers=1, rematerialise=rematerialise, transforms=with_dropout(dropout_rate)
    )
    to_encoder = functools.partial(EncoderDecoderAttention, heads=heads, dropout_rate=dropout_rate)
    settings: dict[str, Any] = {
        "embedding": TokenEmbedding(d_model=16, max_length=16),
        "encoder": functools.partial(stack, layers=[attention, feed_forward]),
        "decoder": functools.partial(stack, layers=[attention, to_encoder, feed_forward]),
    } | options
    model = cls(mesh, VOCABULARY, **settings)
    mtf.initialize(model, seed=2)
    return model


def pairs() -> dict[str, np.ndarray]:
    """Returns inputs of 7 to 10 and targets of 3 to 6 tokens, padded at the end."""
    rng = np.random.default_rng(1)
    inputs = rng.integers(1, VOCABULARY, [BATCH, INPUTS_LENGTH])
    targets = rng.integers(1, VOCABULARY, [BATCH, TARGETS_LENGTH])
    for row in range(BATCH):
        inputs[row, 7 + row % 4 :] = 0
        targets[row, 3 + row % 4 :] = 0
    return {"inputs": inputs.astype(np.int32), "targets": targets.astype(np.int32)}


def packed_pairs() -> dict[str, np.ndarray]:
    """Returns rows of two pairs, (4 inputs, 3 targets) and (5, 2), and one position of padding."""
    rng = np.random.default_rng(2)
    rows = {}
    for name, (first, second, length) in {
        "inputs": (4, 5, INPUTS_LENGTH),
        "targets": (3, 2, TARGETS_LENGTH),
    }.items():
        padding = length - first - second
        segments = np.asarray([1] * first + [2] * second + [0] * padding, np.int32)
        positions = np.asarray([*range(first), *range(second), *[0] * padding], np.int32)
        ids = rng.integers(1, VOCABULARY, [BATCH, length]).astype(np.int32)
        rows[name] = ids * (segments > 0)
        rows[f"{name}_segmentation"] = np.tile(segments, [BATCH, 1])
        rows[f"{name}_position"] = np.tile(positions, [BATCH, 1])
    return rows


def assert_steps_equal_whole_rows(model: EncoderDecoder, mesh: mtf.Mesh, beams: int | None) -> None:
    """Raises unless steps of decoding give the logits of whole sequences.

    Every beam has targets of its own. No row is padded: while decoding, padding is a token.
    """
    rng = np.random.default_rng(3)
    rows = [BATCH] if beams is None else [beams, BATCH]
    targets = rng.integers(1, VOCABULARY, [*rows, TARGETS_LENGTH]).astype(np.int32)
    inputs = pairs()["inputs"]
    logits = mtf.function(model.logits)
    whole = [
        mtf.to_numpy(logits(on_mesh(mesh, {"inputs": inputs, "targets": ids})))
        for ids in targets.reshape([-1, BATCH, TARGETS_LENGTH])
    ]
    actual = logits_step_by_step(model, mesh, {"inputs": inputs}, targets)
    expected = np.stack(whole).reshape([*rows, TARGETS_LENGTH, VOCABULARY])
    assert_close(actual, expected, FLOAT32_MODEL_TOLERANCE)
