"""A two-layer language model, and packed rows for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.models.transformer import (
    AttentionHeads,
    CallLayer,
    DecoderOnly,
    FeedForward,
    Residual,
    RMSNorm,
    SelfAttention,
    Stack,
    StackTransforms,
    SublayerDropout,
    TokenEmbedding,
)

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"
VOCABULARY = 16
BATCH, LENGTH = mtf.Dimension("batch", 8), mtf.Dimension("length", 12)


def with_dropout(rate: float) -> StackTransforms:
    """Returns the usual transforms of a stack, with dropout."""
    dropout = functools.partial(SublayerDropout, rate=rate)
    return StackTransforms(
        initial=[dropout],
        layer=[RMSNorm, CallLayer, dropout, Residual],
        final=[RMSNorm, dropout],
    )


def small_model(
    mesh: mtf.Mesh,
    *,
    dropout_rate: float = 0.0,
    rematerialise: bool | Sequence[str] = False,
    block_length: int | None = None,
    scan_blocks: int | None = None,
    tied_softmax: bool = True,
    num_layers: int = 2,
    **options: Any,
) -> DecoderOnly:
    """Returns an initialised model; `options` are those of DecoderOnly."""
    heads = AttentionHeads(num_heads=4, d_kv=4)
    attention = functools.partial(
        SelfAttention, heads=heads, dropout_rate=dropout_rate, block_length=block_length
    )
    feed_forward = functools.partial(FeedForward, d_ff=32, dropout_rate=dropout_rate)
    stack = functools.partial(
        Stack,
        num_layers=num_layers,
        layers=[attention, feed_forward],
        transforms=with_dropout(dropout_rate),
        rematerialise=rematerialise,
        scan_blocks=scan_blocks,
    )
    settings: dict[str, Any] = {
        "embedding": TokenEmbedding(d_model=16, max_length=16, tied_softmax=tied_softmax),
        "stack": stack,
    } | options
    model = DecoderOnly(mesh, VOCABULARY, **settings)
    mtf.initialize(model, seed=2)
    return model


def packed_rows() -> dict[str, np.ndarray]:
    """Returns rows of two documents of 5 and 4 tokens and 3 of padding."""
    rng = np.random.default_rng(0)
    targets = rng.integers(1, VOCABULARY, [BATCH.size, LENGTH.size]).astype(np.int32)
    segments = np.asarray([1] * 5 + [2] * 4 + [0] * 3, np.int32)
    positions = np.asarray([*range(5), *range(4), 0, 0, 0], np.int32)
    return {
        "targets": targets * (segments > 0),
        "targets_segmentation": np.tile(segments, [BATCH.size, 1]),
        "targets_position": np.tile(positions, [BATCH.size, 1]),
    }


def on_mesh(mesh: mtf.Mesh, features: Mapping[str, np.ndarray]) -> dict[str, mtf.Tensor]:
    """Returns arrays [batch, length] or [batch] of any size as features on the mesh."""
    return {
        name: mtf.import_tf_tensor(
            mesh, np.asarray(x, np.int32), list(zip(("batch", "length"), x.shape, strict=False))
        )
        for name, x in features.items()
    }
