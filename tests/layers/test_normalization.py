"""Norms against their formulas, and their types."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mtfrun import layers, mtf
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
