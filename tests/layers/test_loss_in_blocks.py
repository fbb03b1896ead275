"""A loss in blocks of tokens is the loss of all logits, with its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from tests.layouts import FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close

# Gradients of bfloat16 products (8 bits of mantissa).
BFLOAT16_TOLERANCE = 0.01
VOCAB, WIDTH = mtf.Dimension("vocab", 10), mtf.Dimension("d_model", 8)
RNG = np.random.default_rng(0)
HIDDEN, KERNEL = RNG.normal(size=[3, 4, 8]), RNG.normal(size=[8, 10])
IDS, WEIGHTS = RNG.integers(0, 10, [3, 4]), RNG.uniform(size=[3, 4])


def _losses(logits: mtf.Tensor, ids: mtf.Tensor) -> list[mtf.Tensor]:
    cross_entropy = mtf.sparse_cross_entropy(logits, ids, VOCAB)
    objective = layers.regularised_cross_entropy(
        cross_entropy, logits, VOCAB, label_smoothing=0.1, z_loss=0.01, num_classes=9
    )
    return [objective, cross_entropy.margin]


def _results(block_tokens: int | None, dtype: tf.DType, *, training: bool) -> list[np.ndarray]:
    """Returns the total, the margins and the gradients of x and the kernel; None: not in blocks."""
    mesh = mtf.Mesh(ONE_DEVICE)
    rows = mtf.convert_to_shape("batch:3;length:4")
    ids = mtf.import_tf_tensor(mesh, IDS.astype(np.int32), rows)
    weights = mtf.import_tf_tensor(mesh, WEIGHTS.astype(np.float32), rows)

    def run(x: mtf.Tensor, kernel: mtf.Tensor) -> list[mtf.Tensor | None]:
        if block_tokens is None:
            product = mtf.einsum([x, mtf.cast(kernel, dtype)], [*rows, VOCAB])
            objective, margins = _losses(mtf.to_float(product), ids)
            total = mtf.reduce_sum(objective * weights)
        else:
            total, margins = layers.loss_in_blocks(
                x, kernel, ids, weights, _losses, training=training, block_tokens=block_tokens
            )
        # Another factor than the cotangent that training expects.
        return [total, margins, *mtf.gradients([total * 0.3], [x, kernel])]

    x = mtf.cast(mtf.import_tf_tensor(mesh, HIDDEN.astype(np.float32), rows + WIDTH), dtype)
    kernel = mtf.import_tf_tensor(mesh, KERNEL.astype(np.float32), [WIDTH, VOCAB])
    results = mtf.function(run)(x, kernel)
    assert [y.dtype for y in results[2:]] == [dtype, tf.float32]
    return [mtf.to_numpy(mtf.to_float(y)) for y in results]


@pytest.mark.parametrize(
    ("block_tokens", "training"),
    [
        (5, True),  # which does not divide the tokens
        (12, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(4, True), (12, True)]),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(4, False), (5, False)]),
    ],
)
def test_blocks_change_neither_the_loss_nor_gradients(block_tokens: int, training: bool) -> None:
    expected = _results(None, tf.float32, training=training)
    actual = _results(block_tokens, tf.float32, training=training)
    for value, other in zip(actual, expected, strict=True):
        assert_close(value, other, FLOAT32_OP_TOLERANCE)


def test_products_of_bfloat16_are_summed_up_in_float32() -> None:
    expected = _results(None, tf.bfloat16, training=True)
    actual = _results(4, tf.bfloat16, training=True)
    for value, other in zip(actual[:2], expected[:2], strict=True):
        assert_close(value, other, FLOAT32_OP_TOLERANCE)
    for value, other in zip(actual[2:], expected[2:], strict=True):
        assert_close(value, other, BFLOAT16_TOLERANCE)


def _values_and_gradient_of_x(*, is_frozen: bool) -> list[np.ndarray]:
    mesh = mtf.Mesh(ONE_DEVICE)
    rows = mtf.convert_to_shape("batch:3;length:4")
    ids = mtf.import_tf_tensor(mesh, IDS.astype(np.int32), rows)
    weights = mtf.import_tf_tensor(mesh, WEIGHTS.astype(np.float32), rows)
    kernel = mtf.Variable(mesh, [WIDTH, VOCAB])
    if is_frozen:
        kernel.freeze()
    kernel.initialize(0, "kernel")
    mtf.assign(kernel, mtf.import_tf_tensor(mesh, KERNEL.astype(np.float32), kernel.shape))

    def run(x: mtf.Tensor) -> list[mtf.Tensor | None]:
        total, margins = layers.loss_in_blocks(
            x, kernel, ids, weights, _losses, training=True, block_tokens=4
        )
        of_x, of_kernel = mtf.gradients([total], [x, kernel])
        assert (of_kernel is None) == is_frozen
        return [total, margins, of_x]

    x = mtf.import_tf_tensor(mesh, HIDDEN.astype(np.float32), rows + WIDTH)
    return [mtf.to_numpy(y) for y in mtf.function(run)(x)]


def test_a_frozen_kernel_costs_no_gradient() -> None:
    trained, frozen = (_values_and_gradient_of_x(is_frozen=x) for x in (False, True))
    for value, other in zip(trained, frozen, strict=True):
        np.testing.assert_array_equal(value, other)
