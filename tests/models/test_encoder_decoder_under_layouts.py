"""Encoders and encoder-decoders under layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models import transformer as t
from mtfrun.models.transformer import TokenLoss
from tests.layouts import FLOAT32_MODEL_TOLERANCE, LAYOUTS, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    Step,
    assert_same_step,
    decoded,
    on_mesh,
    packed_pairs,
    pairs,
    small_encoder_decoder,
    training_step,
)

FEATURES = {"packed": packed_pairs, "unpacked": pairs}

CASES = [
    ("unpacked", ONE_DEVICE, True),
    ("packed", "data:2,model:2", True),
    ("packed", "data:4,model:2", False),
    ("unpacked", "data:4,model:2", False),
]


@functools.cache
def _step(rows: str, mesh_shape: str, rematerialise: bool) -> Step:
    """Returns a training step with dropout, label smoothing and z-loss."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_encoder_decoder(
        mesh,
        dropout_rate=0.2,
        rematerialise=rematerialise,
        loss=TokenLoss(label_smoothing=0.1, z_loss=0.01),
    )
    return training_step(model, mesh, FEATURES[rows]())


@pytest.mark.slow
@pytest.mark.parametrize("rows, mesh_shape, rematerialise", CASES)
def test_loss_and_gradients_are_the_same_everywhere(
    rows: str, mesh_shape: str, rematerialise: bool
) -> None:
    actual = _step(rows, mesh_shape, rematerialise)
    assert_same_step(actual, _step(rows, ONE_DEVICE, False))


@functools.cache
def _tokens(mesh_shape: str) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    targets = np.zeros([8, 12], np.int32)
    targets[4:, 0] = [3, 4, 5, 6]
    features = {"inputs": pairs()["inputs"], "targets": targets}
    return decoded(small_encoder_decoder(mesh), mesh, features)


@pytest.mark.slow
def test_greedy_decodes_are_the_same_everywhere() -> None:
    np.testing.assert_array_equal(_tokens("data:2,model:2"), _tokens(ONE_DEVICE))


LABELS = 5
KINDS_OF_ENCODERS = ("masked", "labels", "mean")


def _encoder(mesh: mtf.Mesh, kind: str) -> t.EncoderOnly:
    """Returns an encoder with norms behind its sublayers, but for the first; id 0 is a token."""
    dropout = functools.partial(t.SublayerDropout, rate=0.2)
    layer: list[Callable[..., t.Transform]] = [*(t.CallLayer, dropout, t.Residual, t.LayerNorm)]
    stack = functools.partial(
        t.Stack,
        num_layers=2,
        layers=[
            functools.partial(t.SelfAttention, heads=t.AttentionHeads(4, d_kv=4)),
            functools.partial(t.FeedForward, d_ff=32, use_bias=True),
        ],
        transforms=t.StackTransforms([t.LayerNorm], layer, [], first=layer[:-1]),
    )
    head: list[Callable[..., t.Transform]] = [
        functools.partial(t.DenseTransform, activation=mtf.tanh),
        dropout,
    ]
    if kind == "mean":
        head.insert(0, t.MeanOverLength)
    embedding = t.TokenEmbedding(
        d_model=16, max_length=16, padding_id=-1, softmax_bias=True, vocabulary_divisor=8
    )
    num_labels = None if kind == "masked" else LABELS
    model = t.EncoderOnly(
        *(mesh, VOCABULARY),
        embedding=embedding,
        stack=stack,
        head=head,
        num_types=2,
        num_labels=num_labels,
    )
    mtf.initialize(model, seed=2)
    return model


def _features(kind: str) -> dict[str, np.ndarray]:
    """Returns rows of 12 ids, 7 of them in every other row."""
    random = np.random.default_rng(0)
    shape = (8, 12)
    is_id = np.arange(12) < np.where(np.arange(8) % 2, 7, 12)[:, None]
    targets = np.full(shape, -1)
    if kind == "masked":
        targets = np.where(is_id, random.integers(0, VOCABULARY, shape), -1)
    else:
        targets[:, 0] = random.integers(0, LABELS, 8)
    features = {
        "inputs": np.where(is_id, random.integers(0, VOCABULARY, shape), -1),
        "inputs_types": random.integers(0, 2, shape),
        "targets": targets,
    }
    return {name: ids.astype(np.int32) for name, ids in features.items()}


@functools.cache
def _encoder_step(kind: str, mesh_shape: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    return training_step(_encoder(mesh, kind), mesh, _features(kind))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", LAYOUTS[1:])
@pytest.mark.parametrize("kind", KINDS_OF_ENCODERS)
def test_loss_and_gradients_are_the_same_everywhere_in_encoders(kind: str, mesh_shape: str) -> None:
    assert_same_step(_encoder_step(kind, mesh_shape), _encoder_step(kind, ONE_DEVICE))


def _logits(model: t.EncoderOnly, features: dict[str, np.ndarray]) -> np.ndarray:
    mesh = model.embedding.table.mesh
    logits: np.ndarray = mtf.to_numpy(mtf.function(model.logits)(on_mesh(mesh, features)))
    return logits


def test_padding_changes_no_logits_and_types_do() -> None:
    model = _encoder(mtf.Mesh(ONE_DEVICE), "mean")
    features = _features("mean")
    inputs, types = features["inputs"][1:2], np.zeros([1, 12], np.int32)
    logits = _logits(model, {"inputs": inputs, "inputs_types": types})
    # By default all types are 0, and all positions have the mean.
    assert_close(_logits(model, {"inputs": inputs}), logits, FLOAT32_MODEL_TOLERANCE)
    assert_close(_logits(model, {"inputs": inputs[:, :7]})[0, 3], logits[0, 0], 1e-5)
    others = _logits(model, {"inputs": inputs, "inputs_types": 1 - types})
    assert np.abs(others - logits)[..., :LABELS].max() > 1e-3


def test_padding_of_the_labels_is_another_than_that_of_the_inputs() -> None:
    embedding = t.TokenEmbedding(d_model=8)
    stack = functools.partial(t.Stack, num_layers=1)
    model = t.EncoderOnly(mtf.Mesh(ONE_DEVICE), 9, embedding=embedding, stack=stack, num_labels=3)
    assert (model.padding_of("inputs"), model.padding_of("targets")) == (0, -1)
    assert model.vocabulary_sizes == {"embedding/table": 9, "softmax/kernel": 3}


def test_a_loop_over_blocks_needs_equal_ones() -> None:
    transforms = t.StackTransforms(first=[t.CallLayer, t.Residual])
    with pytest.raises(InputError, match=r"has StackTransforms\.first: leave one out"):
        t.Stack(
            *(mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_model", 8)),
            num_layers=2,
            transforms=transforms,
            scan_blocks=1,
        )
