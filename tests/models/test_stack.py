"""The stack of sublayers: names, order, and the transforms around them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.models.transformer import (
    AttentionHeads,
    CallLayer,
    DecodingProgress,
    FeedForward,
    LayerNorm,
    MaskPadding,
    Residual,
    RMSNorm,
    SelfAttention,
    SequenceCall,
    Stack,
    StackTransforms,
    SublayerDropout,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

WIDTH = mtf.Dimension("d_model", 8)
BATCH, LENGTH = mtf.Dimension("batch", 4), mtf.Dimension("length", 6)
MESHES = [ONE_DEVICE, "data:2,model:2"]
LAYOUT = "batch:data;d_ff:model"


def _given(bias: mtf.Tensor) -> layers.AttentionBias:
    return layers.AttentionBias.of(layers.TensorBias(bias))


class Double:
    """A transform that a user wrote: twice x."""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension, dtypes: mtf.DTypePolicy) -> None:
        pass

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return 2.0 * x


def _rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def _layer_norm(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def _norms_before_and_after(x: np.ndarray, f: Any) -> np.ndarray:
    y = _layer_norm(x)
    return y + _layer_norm(f(_rms(y)))


# (initial, layer and final transforms; the same in numpy: of x and the sublayer)
ORDERS: dict[str, tuple[list[Any], list[Any], list[Any], Any]] = {
    "norm before": (
        [],
        [RMSNorm, CallLayer, Residual],
        [RMSNorm],
        lambda x, f: _rms(x + f(_rms(x))),
    ),
    "norm after": ([], [CallLayer, Residual, LayerNorm], [], lambda x, f: _layer_norm(x + f(x))),
    "norms before and after": (
        [LayerNorm],
        [RMSNorm, CallLayer, LayerNorm, Residual],
        [],
        _norms_before_and_after,
    ),
    "two residuals and one of the user's": (
        [Double],
        [CallLayer, Residual, Double, Residual],
        [Double],
        lambda x, f: 2.0 * (2.0 * (2.0 * x + f(2.0 * x)) + 2.0 * x),
    ),
}


def _stack(mesh: mtf.Mesh, order: str, sublayers: list[Any] | None = None) -> Stack:
    initial, around, final, _ = ORDERS[order]
    stack = Stack(
        mesh,
        WIDTH,
        num_layers=1,
        layers=sublayers or [functools.partial(FeedForward, d_ff=16)],
        transforms=StackTransforms(initial, around, final),
    )
    mtf.initialize(stack, seed=3)
    return stack


def _vectors() -> np.ndarray:
    shape = [BATCH.size, LENGTH.size, WIDTH.size]
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize("order", ORDERS)
def test_transforms_are_applied_in_the_order_of_their_lists(order: str, mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    stack = _stack(mesh, order)
    weights = {path: mtf.to_numpy(v) for path, v in stack.named_variables().items()}
    wi, wo = (weights[f"blocks/0/feed_forward/layer/{name}/kernel"] for name in ("wi", "wo"))
    x = mtf.import_tf_tensor(mesh, _vectors(), [BATCH, LENGTH, WIDTH])
    y = mtf.to_numpy(mtf.function(lambda x: stack(x, SequenceCall()))(x))
    expected = ORDERS[order][-1](_vectors(), lambda y: np.maximum(y @ wi, 0.0) @ wo)
    assert_close(y, expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("order", ORDERS)
def test_transforms_are_the_same_position_by_position(order: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    attention = functools.partial(SelfAttention, heads=AttentionHeads(2, d_kv=4))
    stack = _stack(mesh, order, [attention, functools.partial(FeedForward, d_ff=16)])
    memory = mtf.Dimension("memory_length", LENGTH.size)

    def run(x: mtf.Tensor) -> list[Any]:
        mask = layers.causal_mask(mesh, LENGTH).value(tf.float32)
        whole = SequenceCall(self_attention_bias=_given(mask))
        empty = stack.initial_state([BATCH], memory, SequenceCall())
        prefilled, cache = stack.prefill(x, empty, whole)
        state, outputs = empty, []
        for i, vector in enumerate(mtf.unstack(x, LENGTH)):
            position = mtf.constant(mesh, i, dtype=tf.int32)
            bias = layers.causal_mask_at(position, memory).value(tf.float32)
            call = SequenceCall(
                self_attention_bias=_given(bias), progress=DecodingProgress(position)
            )
            y, state = stack.step(vector, state, call)
            outputs.append(y)
        return [stack(x, whole), prefilled, outputs, cache, state]

    x = mtf.import_tf_tensor(mesh, _vectors(), [BATCH, LENGTH, WIDTH])
    whole, prefilled, outputs, cache, state = mtf.to_numpy(mtf.function(run)(x))
    assert_close(prefilled, whole, FLOAT32_MODEL_TOLERANCE)
    assert_close(np.stack(outputs, axis=1), whole, FLOAT32_MODEL_TOLERANCE)
    for after, expected in zip(cache[0]["self_attention"], state[0]["self_attention"], strict=True):
        assert_close(after, expected, FLOAT32_MODEL_TOLERANCE)


def test_padding_is_masked_before_the_sublayer_only() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    bias = functools.partial(FeedForward, d_ff=16, use_bias=True, activation=mtf.exp)
    stack = Stack(
        mesh,
        WIDTH,
        num_layers=1,
        layers=[bias],
        transforms=StackTransforms(layer=[MaskPadding, CallLayer, Residual], final=[]),
    )
    mtf.initialize(stack)
    x = mtf.import_tf_tensor(mesh, _vectors(), [BATCH, LENGTH, WIDTH])
    nonpadding = mtf.to_float(mtf.less(mtf.range(mesh, LENGTH), 4))
    masked = mtf.to_numpy(stack(x, SequenceCall(nonpadding=nonpadding))) - _vectors()
    unmasked = mtf.to_numpy(stack(x, SequenceCall())) - _vectors()
    of_zero = mtf.to_numpy(stack(x * 0.0, SequenceCall()))
    assert_close(masked[:, :4], unmasked[:, :4], FLOAT32_MODEL_TOLERANCE)
    assert_close(masked[:, 4:], of_zero[:, 4:], FLOAT32_MODEL_TOLERANCE)
    assert np.abs(masked[:, 4:] - unmasked[:, 4:]).max() > 0.1


def test_dropout_is_where_it_is_listed() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    half = functools.partial(SublayerDropout, rate=0.5)
    stack = Stack(
        mesh,
        WIDTH,
        num_layers=1,
        layers=[FeedForward],
        transforms=StackTransforms(initial=[], layer=[half, CallLayer], final=[half]),
    )
    mtf.initialize(stack)
    assert {"blocks/0/feed_forward/dropout", "final_dropout"} <= stack.named_modules().keys()
    x = mtf.import_tf_tensor(mesh, np.ones([64, WIDTH.size], np.float32), ["batch:64", WIDTH])
    output = mtf.to_numpy(stack(x, SequenceCall(training=True, key=mtf.random_key(0))))
    assert 0.4 < np.mean(output == 0.0) < 0.6


def test_a_class_that_is_listed_twice_gets_numbers() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack = Stack(
        mesh,
        WIDTH,
        num_layers=1,
        layers=[FeedForward, SelfAttention, FeedForward],
        transforms=StackTransforms(layer=[RMSNorm, CallLayer, LayerNorm, Residual]),
    )
    assert list(stack.blocks[0]) == ["feed_forward_0", "self_attention", "feed_forward_1"]
    paths = stack.named_variables()
    assert "blocks/0/feed_forward_1/norm_0/scale" in paths
    assert "blocks/0/feed_forward_1/norm_1/bias" in paths
    assert "final_norm/scale" in paths


@pytest.mark.parametrize("options", [{"num_layers": 0}, {"layers": []}])
def test_a_stack_without_blocks_or_layers_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"num_layers is 0: it must be|layers is empty: name"):
        Stack(mtf.Mesh(ONE_DEVICE), WIDTH, **options)


@pytest.mark.parametrize("transforms", [[RMSNorm, Residual], [CallLayer, Residual, CallLayer]])
def test_call_layer_must_be_listed_once(transforms: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"has CallLayer \d times, not once"):
        Stack(mtf.Mesh(ONE_DEVICE), WIDTH, transforms=StackTransforms(layer=transforms))


@pytest.mark.parametrize("transform", [CallLayer, Residual])
def test_transforms_that_need_a_sublayer_are_refused_elsewhere(transform: type) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack = Stack(mesh, WIDTH, layers=[FeedForward], transforms=StackTransforms(final=[transform]))
    mtf.initialize(stack)
    with pytest.raises(ValueError, match=r"has its place in StackTransforms\.layer only"):
        stack(mtf.ones(mesh, [BATCH, WIDTH]), SequenceCall())
