"""What is ported from Mesh TensorFlow computes the same under layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.extras.mesh_tensorflow import parity
from tests.layers.differentiated import output_and_gradients
from tests.layouts import (
    FLOAT32_MODEL_TOLERANCE,
    FLOAT32_OP_TOLERANCE,
    ONE_DEVICE,
    assert_close,
    meshes,
)
from tests.mtf.test_gradients import Linear, X, expected_gradient, linear

SIZE = 40000
TENSOR_FUNCTIONS_X = np.random.default_rng(0).normal(size=[6, 10]).astype(np.float32)
# The gradient of the output in tests/layers/differentiated.py.
SENT = np.random.default_rng(3).normal(size=[6, 10])
RMS = float(np.sqrt(np.mean(SENT**2)))


def _annealed(step: int) -> np.ndarray:
    mesh = mtf.Mesh(ONE_DEVICE)
    x, now = mtf.ones(mesh, [("batch", SIZE)]), mtf.constant(mesh, step, dtype=tf.int64)
    return mtf.to_numpy(
        parity.annealed_dropout(
            x, True, 100, 200, init_rate=0.5, step=now, key=mtf.random_key(step)
        )
    )


@pytest.mark.parametrize(
    "step, rate", [(0, 0.5), (100, 0.5), (150, 0.25), (180, 0.1), (200, 0.0), (999, 0.0)]
)
def test_annealed_dropout_has_the_rate_of_the_step(step: int, rate: float) -> None:
    y = _annealed(step)
    scale = np.float32(1 / (1 - rate))
    assert np.mean(y == 0.0) == pytest.approx(rate, abs=5 * (0.25 / SIZE) ** 0.5 * (rate > 0))
    np.testing.assert_allclose(y[y != 0.0], scale, rtol=1e-6)


def test_annealed_dropout_shares_its_noise_along_dimensions_outside_noise_shape() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x = mtf.ones(mesh, "a:64;b:4")
    y = mtf.to_numpy(
        parity.annealed_dropout(
            x, True, 1, 2, 0.5, "a:64", step=mtf.constant(mesh, 0.0), key=mtf.random_key(0)
        )
    )
    np.testing.assert_array_equal(y, np.repeat(y[:, :1], 4, axis=1))
    assert 0.0 < np.mean(y == 0.0) < 1.0


def test_annealed_dropout_does_nothing_outside_of_training_or_without_a_rate() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x, step, key = mtf.ones(mesh, "batch:4"), mtf.zeros(mesh, []), mtf.random_key(0)
    assert parity.annealed_dropout(x, False, 1, 2, 0.5, step=step, key=key) is x
    assert parity.annealed_dropout(x, True, 1, 2, step=step, key=key) is x


@pytest.mark.parametrize(
    "steps, rate, noise_shape, message",
    [
        ((1, 2), 1.0, None, r"init_rate is 1\.0: it must be at least 0"),
        ((2, 2), 0.5, None, "annealed_dropout needs start_step < end_step, got 2 and 2"),
        ((1, 2), 0.5, "b:4", r"no dimension b:4 in"),
    ],
)
def test_annealed_dropout_refuses_bad_rates_steps_and_dimensions(
    steps: tuple[int, int], rate: float, noise_shape: str | None, message: str
) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x, step, key = mtf.ones(mesh, "a:4"), mtf.zeros(mesh, []), mtf.random_key(0)
    with pytest.raises(ValueError, match=message):
        parity.annealed_dropout(x, True, *steps, rate, noise_shape, step=step, key=key)


def test_jitter_is_uniform_around_one() -> None:
    x = mtf.constant(mtf.Mesh(ONE_DEVICE), 2.0, [("batch", SIZE)])
    factors = mtf.to_numpy(parity.multiplicative_jitter(x, 0.1, key=mtf.random_key(0))) / 2.0
    assert 0.9 <= factors.min() < 0.901 and 1.099 < factors.max() <= 1.1 + 1e-6
    deviation = 0.1 / 3**0.5
    assert np.mean(factors) == pytest.approx(1.0, abs=5 * deviation / SIZE**0.5)
    assert np.std(factors) == pytest.approx(deviation, rel=0.02)


def test_jitter_without_an_epsilon_is_the_tensor_itself() -> None:
    x = mtf.ones(mtf.Mesh(ONE_DEVICE), "batch:4")
    assert parity.multiplicative_jitter(x, 0.0, key=mtf.random_key(0)) is x


@pytest.mark.parametrize(
    "clip_rms_norm, factor", [(RMS / 4, 0.25), (RMS * 1.01, 1.0), (1e9, 1.0), (None, 1.0)]
)
def test_a_gradient_is_scaled_down_to_the_bound(clip_rms_norm: float | None, factor: float) -> None:
    results = output_and_gradients(
        ONE_DEVICE,
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: parity.clip_activation_gradient(inputs["x"], clip_rms_norm),
        {"x": ("batch:6;d_model:10", TENSOR_FUNCTIONS_X)},
    )
    np.testing.assert_array_equal(results["output"], TENSOR_FUNCTIONS_X)
    assert_close(results["x"], SENT * factor)


@pytest.mark.parametrize("clip_rms_norm", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_not_positive_is_refused(clip_rms_norm: float) -> None:
    with pytest.raises(ValueError, match=r"clip_rms_norm is .*: it must be more than 0, or None"):
        parity.clip_activation_gradient(mtf.ones(mtf.Mesh(ONE_DEVICE), "a:4"), clip_rms_norm)


@pytest.mark.slow
@pytest.mark.parametrize("num_splits", [1, 2, 4])
def test_microbatches_sum_to_the_batch_and_concatenate_outputs(num_splits: int) -> None:
    for mesh_shape in ("data:1,model:1", "data:2,model:1", "data:2,model:2"):
        model, x = linear(mesh_shape)

        def model_fn(
            features: dict[str, mtf.Tensor], model: Linear = model
        ) -> dict[str, mtf.Tensor]:
            hidden = model(features["x"])
            return {"loss": mtf.reduce_sum(mtf.square(hidden)), "hidden": hidden}

        def step(
            x: mtf.Tensor, fn: Any = model_fn, model: Linear = model
        ) -> tuple[dict[str, mtf.Tensor], dict[str, mtf.Tensor]]:
            return parity.serialize_training_step(
                {"x": x}, fn, "batch:8", num_splits, model.named_variables()
            )

        gradients, outputs = mtf.function(step)(x)
        loss, expected = expected_gradient(model)
        assert_close(mtf.to_numpy(outputs["loss"]), np.float32(loss))
        assert_close(mtf.to_numpy(outputs["hidden"]), np.tanh(X @ mtf.to_numpy(model.kernel)))
        assert_close(mtf.to_numpy(gradients["kernel"]), expected.astype(np.float32))
        assert_close(mtf.to_numpy(gradients["unused"]), np.zeros([8], np.float32))


def test_microbatches_must_divide_the_batch() -> None:
    _, x = linear("data:1,model:1")
    with pytest.raises(
        mtf.ShapeError, match=r"^3 microbatches do not divide batch:8: take a divisor"
    ):
        parity.serialize_training_step({"x": x}, lambda _: {}, "batch:8", 3, {})


PORTED_UNDER_LAYOUTS_X = np.random.default_rng(0).normal(size=[8, 4, 8]).astype(np.float32)
INPUTS = {"x": ("batch:8;length:4;d_model:8", PORTED_UNDER_LAYOUTS_X)}

FUNCTIONS: dict[str, Callable[[mtf.Tensor, mtf.Key], mtf.Tensor]] = {
    "annealed_dropout": lambda x, key: parity.annealed_dropout(
        x, True, 10, 50, init_rate=0.8, step=mtf.constant(x.mesh, 30, dtype=tf.int64), key=key
    ),
    "multiplicative_jitter": lambda x, key: parity.multiplicative_jitter(x, 0.3, key=key),
    "clip_activation_gradient": lambda x, key: parity.clip_activation_gradient(mtf.tanh(x), 0.01),
}


@functools.cache
def _results(name: str, mesh_shape: str) -> dict[str, np.ndarray]:
    return output_and_gradients(
        mesh_shape,
        lambda mesh: mtf.Module(),
        lambda module, inputs, call: FUNCTIONS[name](inputs["x"], call.key_of(module)),
        INPUTS,
    )


@pytest.mark.parametrize("mesh_shape", meshes())
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_layout_changes_neither_output_nor_gradients(name: str, mesh_shape: str) -> None:
    expected, actual = _results(name, ONE_DEVICE), _results(name, mesh_shape)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(actual[key], value, FLOAT32_OP_TOLERANCE)


HEIGHT, WIDTH, H_BLOCKS, W_BLOCKS, IO = 2, 3, 2, 4, 4
SHAPE = mtf.convert_to_shape(
    f"batch:2;h_blocks:{H_BLOCKS};w_blocks:{W_BLOCKS};h:{HEIGHT};w:{WIDTH};io:{IO}"
)
WHERE = [
    ("data:1,model:1", ""),
    ("data:2,model:2", "h_blocks:data;w_blocks:model"),
    ("data:2,model:4", "batch:data;w_blocks:model"),
    ("data:2,model:2", "batch:data;heads:model"),
]


def _run(mesh_shape: str, layout: str, mask_right: bool) -> tuple[np.ndarray, Any]:
    """Returns the output and the projections, `AttentionParams` of arrays."""
    mesh = mtf.Mesh(mesh_shape, layout)
    attention = parity.AttentionParameters(
        mesh, mtf.Dimension("heads", 2), SHAPE.dims[-1], mtf.Dimension("kv", 3)
    )
    mtf.initialize(attention, seed=1)
    x = np.random.default_rng(0).standard_normal(SHAPE.to_integer_list, np.float32)
    y = mtf.function(
        lambda x: parity.local_2d_self_attention_spatial_blocks(
            x, attention.projections(), mask_right=mask_right
        )
    )(mtf.import_tf_tensor(mesh, x, SHAPE))
    return mtf.to_numpy(y), mtf.to_numpy(attention.projections())


def _expected(params: Any, mask_right: bool) -> np.ndarray:
    """Computes position by position over the whole image; the softmax includes zeros beyond it."""
    x = np.random.default_rng(0).standard_normal(SHAPE.to_integer_list, np.float32)
    whole = x.transpose(0, 1, 3, 2, 4, 5).reshape(2, H_BLOCKS * HEIGHT, W_BLOCKS * WIDTH, IO)
    padded = np.pad(whole, [(0, 0), (HEIGHT, HEIGHT), (WIDTH, WIDTH), (0, 0)])
    q, k, v = (
        np.einsum("bhwi,nik->bnhwk", array, w)
        for array, w in [(whole, params.wq), (padded, params.wk), (padded, params.wv)]
    )
    y = np.zeros_like(whole)
    for row in range(whole.shape[1]):
        for column in range(whole.shape[2]):
            # In padded coordinates the block of a position begins one block later.
            top, left = row // HEIGHT * HEIGHT, column // WIDTH * WIDTH
            last_row = top + (2 if mask_right else 3) * HEIGHT
            last_column = left + (2 if mask_right else 3) * WIDTH
            visible = [
                (r, c)
                for r in range(top, last_row)
                for c in range(left, last_column)
                if not mask_right or r < row + HEIGHT or (r == row + HEIGHT and c <= column + WIDTH)
            ]
            keys = np.stack([k[:, :, r, c] for r, c in visible], axis=2)
            values = np.stack([v[:, :, r, c] for r, c in visible], axis=2)
            logits = np.einsum("bnk,bnmk->bnm", q[:, :, row, column], keys)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed = np.einsum("bnm,bnmk->bnk", weights, values)
            y[:, row, column] = np.einsum("bnk,nik->bi", mixed, params.wo)
    blocked = y.reshape(2, H_BLOCKS, HEIGHT, W_BLOCKS, WIDTH, IO)
    return blocked.transpose(0, 1, 3, 2, 4, 5)


@pytest.mark.parametrize("mesh_shape, layout", WHERE)
@pytest.mark.parametrize("mask_right", [False, True])
def test_a_position_attends_to_its_block_and_the_neighbouring_ones(
    mask_right: bool, mesh_shape: str, layout: str
) -> None:
    y, params = _run(mesh_shape, layout, mask_right)
    assert_close(y, _expected(params, mask_right), FLOAT32_MODEL_TOLERANCE)


def test_the_originals_sum_over_rows_has_no_mask() -> None:
    mesh = mtf.Mesh()
    x = mtf.zeros(mesh, SHAPE)
    w = mtf.zeros(mesh, [mtf.Dimension("heads", 2), SHAPE.dims[-1], mtf.Dimension("kv", 3)])
    with pytest.raises(ValueError, match="no rows that mask_right could mask"):
        parity.local_2d_self_attention_spatial_blocks(
            x, parity.AttentionParams(w, w, w, w), mask_right=True, sum_logits_over_rows=True
        )
