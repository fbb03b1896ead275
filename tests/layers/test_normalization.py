"""Norms, dropout, embeddings and losses compute their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from tests.layers.differentiated import output_and_gradients
from tests.layouts import ONE_DEVICE, assert_close

DIM = mtf.Dimension("d_model", 16)
X = np.random.default_rng(0).normal(size=[4, 16]).astype(np.float32) * 2 + 1
SCALE = np.linspace(0.5, 2.0, 16).astype(np.float32)
BIAS = np.linspace(-1.0, 1.0, 16).astype(np.float32)
# Its mantissa has 8 bits.
BFLOAT16_TOLERANCE = 2**-8


def _tensors(dtype: tf.DType = tf.float32) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    mesh = mtf.Mesh(ONE_DEVICE)
    x = mtf.cast(mtf.import_tf_tensor(mesh, X, [("batch", 4), DIM]), dtype)
    return x, mtf.import_tf_tensor(mesh, SCALE, [DIM]), mtf.import_tf_tensor(mesh, BIAS, [DIM])


def _rms_norm(x: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon) * SCALE


def test_rms_norm_is_the_formula() -> None:
    x, scale, _ = _tensors()
    assert_close(mtf.to_numpy(layers.rms_norm(x, DIM, scale, 0.1)), _rms_norm(X, 0.1))


def test_layer_norm_is_the_formula() -> None:
    x, scale, bias = _tensors()
    centred = X - X.mean(-1, keepdims=True)
    expected = centred / np.sqrt(X.var(-1, keepdims=True) + 0.1) * SCALE + BIAS
    assert_close(mtf.to_numpy(layers.layer_norm(x, DIM, scale, bias, 0.1)), expected)
    without = layers.LayerNorm(x.mesh, DIM, epsilon=0.1, use_scale=False)
    assert not without.named_variables()
    assert_close(mtf.to_numpy(without(x, layers.Call())), (expected - BIAS) / SCALE)


def test_several_dimensions_are_normalised_together_or_apart() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    heads, size = mtf.Dimension("heads", 4), mtf.Dimension("d_kv", 4)
    x = mtf.import_tf_tensor(mesh, X.reshape(4, 4, 4), [("batch", 4), heads, size])
    together = layers.RMSNorm(mesh, [heads, size], epsilon=0.1, scale_offset=1.0)
    apart = layers.LayerNorm(mesh, size, epsilon=0.1, outer_dims=[heads], use_bias=False)
    for norm in (together, apart):
        mtf.initialize(norm)
        assert norm.scale is not None
        mtf.assign(norm.scale, mtf.import_tf_tensor(mesh, SCALE.reshape(4, 4), [heads, size]))
    expected = _rms_norm(X, 0.1) * (SCALE + 1) / SCALE
    assert_close(mtf.to_numpy(together(x, layers.Call())).reshape(4, 16), expected)
    by_head = X.reshape(4, 4, 4)
    centred = by_head - by_head.mean(-1, keepdims=True)
    expected = centred / np.sqrt(by_head.var(-1, keepdims=True) + 0.1) * SCALE.reshape(4, 4)
    assert_close(mtf.to_numpy(apart(x, layers.Call())), expected)


def test_a_norm_of_bfloat16_computes_in_float32_and_returns_bfloat16() -> None:
    x, scale, _ = _tensors(tf.bfloat16)
    y = layers.rms_norm(x, DIM, scale)
    assert y.dtype == tf.bfloat16
    rounded = mtf.to_numpy(x).astype(np.float32)
    assert_close(mtf.to_numpy(y), _rms_norm(rounded, 1e-6), BFLOAT16_TOLERANCE)


SIZE = 40000


class _Two(mtf.Module):
    """Two dropout layers with paths of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dropout(0.25)
        self.second = layers.Dropout(0.25)


def _masks(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    mesh = mtf.Mesh(ONE_DEVICE)
    two = _Two()
    mtf.initialize(two)
    x = mtf.ones(mesh, [("batch", SIZE)])
    call = layers.Call(training=True, key=mtf.random_key(seed))
    return mtf.to_numpy(two.first(x, call)), mtf.to_numpy(two.second(x, call))


def test_noise_depends_on_the_path_and_the_key_and_nothing_else() -> None:
    first, second = _masks()
    np.testing.assert_array_equal(_masks()[0], first)
    for other in (second, _masks(seed=1)[0]):
        # Independent masks agree at a share of 0.25**2 + 0.75**2.
        assert np.mean((other == 0) == (first == 0)) == pytest.approx(0.625, abs=0.02)


def test_training_without_a_key_is_refused() -> None:
    x = mtf.ones(mtf.Mesh(ONE_DEVICE), "batch:4")
    two = _Two()
    mtf.initialize(two)
    with pytest.raises(ValueError, match="first needs random numbers in training"):
        two.first(x, layers.Call(training=True))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"dropout_rate is .* at least 0 and less than 1"):
        layers.Dropout(rate)


VOCAB, WIDTH = mtf.Dimension("vocab", 10), mtf.Dimension("d_model", 4)


def _embedding() -> tuple[mtf.Mesh, layers.Embedding, np.ndarray]:
    mesh = mtf.Mesh(ONE_DEVICE)
    embedding = layers.Embedding(mesh, VOCAB, WIDTH)
    mtf.initialize(embedding, 0)
    return mesh, embedding, mtf.to_numpy(embedding.table)


def test_an_embedding_is_the_row_of_the_id_and_zero_outside_of_the_vocabulary() -> None:
    mesh, embedding, table = _embedding()
    ids = mtf.import_tf_tensor(mesh, np.asarray([3, 0, -1, 10], np.int32), "batch:4")
    vectors = embedding(ids, layers.Call())
    np.testing.assert_array_equal(mtf.to_numpy(vectors), [table[3], table[0], [0] * 4, [0] * 4])


def test_tied_logits_are_scaled_by_the_root_of_d_model() -> None:
    mesh, embedding, table = _embedding()
    x = np.random.default_rng(0).normal(size=[3, 4]).astype(np.float32)
    logits = embedding.logits(mtf.import_tf_tensor(mesh, x, [("batch", 3), WIDTH]))
    assert_close(mtf.to_numpy(logits), x @ table.T / 2.0)


def test_the_first_positions_are_those_of_a_gather() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    position = layers.PositionalEmbedding(mesh, 8, WIDTH)
    mtf.initialize(position, 0)
    for size in (5, 8):
        length = mtf.Dimension("length", size)
        gathered = position(mtf.range(mesh, length), layers.Call())
        np.testing.assert_array_equal(mtf.to_numpy(position.first(length)), mtf.to_numpy(gathered))


def test_a_sequence_longer_than_the_table_is_refused() -> None:
    position = layers.PositionalEmbedding(mtf.Mesh(ONE_DEVICE), 8, WIDTH)
    with pytest.raises(mtf.ShapeError, match=r"length:9 are longer than max_length=8"):
        position.first(mtf.Dimension("length", 9))


LOSSES_VOCAB = mtf.Dimension("vocab", 10)
LOGITS = np.random.default_rng(0).normal(size=[6, 10]).astype(np.float32) * 3
IDS = np.asarray([0, 9, 3, 3, 5, 1], np.int32)
SETTINGS = [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.03)]


def _expected(smoothing: float, z_loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses, and the gradients of their weighted sum as `differentiated` weighs it."""
    logits = LOGITS.astype(np.float64)
    log_z = np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = (1 - smoothing) * np.eye(10)[IDS] + smoothing / 10
    losses = -(targets * (logits - log_z)).sum(-1) + z_loss * log_z[:, 0] ** 2
    probabilities = np.exp(logits - log_z)
    gradients = probabilities - targets + 2 * z_loss * log_z * probabilities
    direction = np.random.default_rng(3).normal(size=6)
    return losses, gradients * direction[:, np.newaxis]


@pytest.mark.parametrize("smoothing, z_loss", SETTINGS)
def test_cross_entropy_with_ids_is_the_formula(smoothing: float, z_loss: float) -> None:
    results = output_and_gradients(
        ONE_DEVICE,
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: layers.softmax_cross_entropy_with_ids(
            inputs["logits"], inputs["ids"], LOSSES_VOCAB, label_smoothing=smoothing, z_loss=z_loss
        ),
        {"logits": ("batch:6;vocab:10", LOGITS), "ids": ("batch:6", IDS)},
    )
    losses, gradients = _expected(smoothing, z_loss)
    assert_close(results["output"], losses)
    assert_close(results["logits"], gradients)


@pytest.mark.parametrize("smoothing, z_loss", SETTINGS)
def test_cross_entropy_with_probabilities_is_the_formula(smoothing: float, z_loss: float) -> None:
    targets = ((1 - smoothing) * np.eye(10)[IDS] + smoothing / 10).astype(np.float32)
    results = output_and_gradients(
        ONE_DEVICE,
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: layers.softmax_cross_entropy_with_logits(
            inputs["logits"], mtf.stop_gradient(inputs["targets"]), LOSSES_VOCAB, z_loss
        ),
        {"logits": ("batch:6;vocab:10", LOGITS), "targets": ("batch:6;vocab:10", targets)},
    )
    losses, gradients = _expected(smoothing, z_loss)
    assert_close(results["output"], losses)
    assert_close(results["logits"], gradients)


def test_sigmoid_cross_entropy_is_right_at_zero_and_for_large_logits() -> None:
    mesh = mtf.Mesh()
    logits = mtf.import_tf_tensor(mesh, np.asarray([0.0, 200.0, -200.0], np.float32), "n:3")
    targets = mtf.import_tf_tensor(mesh, np.asarray([0.25, 0.25, 0.25], np.float32), "n:3")

    def fn(logits: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor | None]:
        loss = layers.sigmoid_cross_entropy_with_logits(logits, targets)
        return loss, mtf.gradients([loss], [logits])[0]

    loss, gradient = mtf.to_numpy(mtf.function(fn)(logits))
    assert_close(loss, [math.log(2.0), 150.0, 50.0])
    assert_close(gradient, [0.25, 0.75, -0.25])


def test_sigmoid_cross_entropy_refuses_other_dimensions() -> None:
    mesh = mtf.Mesh()
    with pytest.raises(mtf.ShapeError, match=r"logits .* and targets .* the same dimensions: use"):
        layers.sigmoid_cross_entropy_with_logits(mtf.zeros(mesh, "n:3"), mtf.zeros(mesh, "m:3"))
