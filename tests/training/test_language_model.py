"""A language model trains to the same losses on every mesh: packed, with dropout, 20 steps."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import Batch, Infeed, packed_features
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    FeedForward,
    SelfAttention,
    Stack,
    TokenEmbedding,
    TokenLoss,
)
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.step import StepOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.models.small_model import with_dropout

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"
BATCH, LENGTH, VOCABULARY, STEPS = 8, 16, 64, 20

CASES = [("data:2,model:2", True, 2), ("data:4,model:2", False, 1)]
# All are slow; by default tests/models has loss and gradients on a mesh, test_step.py training.


def batches() -> Iterator[Batch]:
    """Yields packed examples of two documents each, the second of which ends in padding."""
    rng = np.random.default_rng(0)
    targets = rng.integers(1, VOCABULARY, (STEPS, BATCH, LENGTH)).astype(np.int32)
    targets[:, :, -2:] = 0
    segments = np.where(np.arange(LENGTH) < 7, 1, 2) * (targets > 0)
    positions = np.where(np.arange(LENGTH) < 7, np.arange(LENGTH), np.arange(LENGTH) - 7)
    features = {
        "targets": targets,
        "targets_segmentation": segments.astype(np.int32),
        "targets_position": (positions * (targets > 0)).astype(np.int32),
    }
    for step in range(STEPS):
        yield {name: values[step] for name, values in features.items()}


@functools.cache
def losses(mesh_shape: str, rematerialise: bool, microbatches: int) -> tuple[np.ndarray, ...]:
    """Returns the loss, and the gradient's norm, of every step."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    heads = AttentionHeads(num_heads=4, d_kv=8)
    model = DecoderOnly(
        mesh,
        VOCABULARY,
        embedding=TokenEmbedding(d_model=16, max_length=LENGTH),
        stack=functools.partial(
            Stack,
            num_layers=1,
            layers=[
                functools.partial(SelfAttention, heads=heads, dropout_rate=0.1),
                functools.partial(FeedForward, d_ff=32, dropout_rate=0.1),
            ],
            transforms=with_dropout(0.1),
            rematerialise=rematerialise,
        ),
        loss=TokenLoss(label_smoothing=0.1, z_loss=1e-4),
    )
    state = TrainState(model, optim.Adafactor(min_dim_size_to_factor=16), mesh, seed=1)
    state.initialize()
    shape = mtf.convert_to_shape(f"batch:{BATCH};length:{LENGTH}")
    infeed = Infeed(batches(), mesh, dict.fromkeys(packed_features(LENGTH), shape))
    run = train_steps_function(state, StepOptions(microbatches=microbatches, clip_norm=1.0))
    features = infeed.next(STEPS)
    assert features is not None
    record = mtf.to_numpy(run(features, mtf.constant(mesh, STEPS, dtype=tf.int32)))
    loss = record.metrics["loss"]
    return loss.total / loss.weight, record.gradient_norm


@pytest.mark.slow
@pytest.mark.parametrize(("mesh_shape", "rematerialise", "microbatches"), CASES)
def test_losses_and_gradient_norms_are_those_of_one_device(
    mesh_shape: str, rematerialise: bool, microbatches: int
) -> None:
    # Expected without rematerialisation, which must not change the numbers either.
    expected = losses("data:1,model:1", False, microbatches)
    actual = losses(mesh_shape, rematerialise, microbatches)
    np.testing.assert_allclose(actual[0], expected[0], rtol=FLOAT32_MODEL_TOLERANCE)
    assert_close(actual[1], expected[1], FLOAT32_MODEL_TOLERANCE)
