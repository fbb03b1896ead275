"""Experts are chosen by scores plus biases, which each step of training changes by their load."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Collector
from mtfrun.models import moe
from mtfrun.models.transformer import SequenceCall
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import BATCH, D_MODEL, EXPERTS, LAYOUT, LENGTH, inputs, padding_mask

RATE = 0.25
BIAS = np.array([0.9, -0.9, 0.3, 0.0], np.float32)
GATE = moe.TopK(2, sigmoid=True, scale=1.5)
GROUPS = moe.TopK(2, sigmoid=True, scale=1.5, num_groups=2, best_of_group=1)


def _layer(mesh: mtf.Mesh, kind: str) -> moe.DroplessMoE | moe.MoE1D:
    gate = GROUPS if kind == "groups" else GATE
    router = functools.partial(moe.Router, gate=gate, bias_rate=RATE)
    if kind != "capacity":
        layer = moe.DroplessMoE(mesh, D_MODEL, num_experts=4, router=router, experts=EXPERTS)
    else:
        capacity = moe.Capacity(training=4.0, group_size=12)
        layer = moe.MoE1D(
            mesh, D_MODEL, num_experts=4, router=router, experts=EXPERTS, capacity=capacity
        )
    mtf.initialize(layer, seed=1)
    bias = layer.router.bias
    assert bias is not None and not bias.is_trained
    mtf.assign(bias, mtf.import_tf_tensor(mesh, BIAS, bias.shape))
    return layer


def _expected(layer: moe.DroplessMoE | moe.MoE1D, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outputs and the next biases, in numpy."""
    values = mtf.to_numpy(layer.named_variables())
    x, mask = inputs(), padding_mask()
    scores = 1.0 / (1.0 + np.exp(-(x @ values["router/kernel"])))
    biased = scores + BIAS
    if kind == "groups":
        of_groups = biased.reshape([*biased.shape[:-1], 2, 2]).max(axis=-1, keepdims=True)
        is_chosen = np.repeat(of_groups == of_groups.max(axis=-2, keepdims=True), 2, axis=-1)
        biased = np.where(is_chosen.reshape(biased.shape), biased, -np.inf)
    order = np.argsort(-biased, axis=-1)[..., :2]
    chosen = np.eye(4)[order].sum(axis=-2)
    weights = scores * chosen * mask[..., np.newaxis]
    weights = 1.5 * weights / (weights.sum(axis=-1, keepdims=True) + 1e-9)
    hidden = np.maximum(np.einsum("bld,edh->bleh", x, values["experts/wi/factors/0/kernel"]), 0.0)
    outputs = np.einsum("bleh,ehd,ble->bld", hidden, values["experts/wo/kernel"], weights)
    loads = (chosen * mask[..., np.newaxis]).sum(axis=(0, 1))
    return outputs, BIAS + RATE * np.sign(loads.mean() - loads)


@pytest.mark.parametrize(
    "mesh_shape",
    [
        ONE_DEVICE,
        pytest.param("data:2,model:1", marks=pytest.mark.slow),
        "data:2,model:2",
        pytest.param("data:4,model:2", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "kind", ["dropless", pytest.param("capacity", marks=pytest.mark.slow), "groups"]
)
def test_outputs_and_next_biases_are_the_formula(kind: str, mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    layer = _layer(mesh, kind)
    bias = layer.router.bias
    assert bias is not None

    def compute(x: mtf.Tensor, nonpadding: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor]:
        collector = Collector()
        call = SequenceCall(True, mtf.random_key(3), collector, nonpadding=nonpadding)
        output = layer(x, call)
        return output, collector.contents.updates[bias.path]

    results = mtf.function(compute)(
        mtf.import_tf_tensor(mesh, inputs(), [BATCH, LENGTH, D_MODEL]),
        mtf.import_tf_tensor(mesh, padding_mask(), [BATCH, LENGTH]),
    )
    outputs, biases = mtf.to_numpy(results)
    expected, next_biases = _expected(layer, kind)
    assert_close(outputs * padding_mask()[..., np.newaxis], expected, FLOAT32_MODEL_TOLERANCE)
    np.testing.assert_array_equal(biases, next_biases)
    assert len(set(np.sign(next_biases - BIAS))) > 1


def test_groups_that_experts_do_not_fill_are_refused() -> None:
    with pytest.raises(InputError, match=r"groups_per_token is 3: it must be an integer of at lea"):
        moe.TopK(num_groups=2, groups_per_token=3)
    for gate, match in (
        (moe.TopK(num_groups=3), r"num_groups=3 must divide the 4 experts"),
        (moe.TopK(3, num_groups=2), r"num_experts=3 must be at most the 2 experts of a group"),
    ):
        router = functools.partial(moe.Router, gate=gate)
        layer = moe.DroplessMoE(mtf.Mesh(), D_MODEL, num_experts=4, router=router, experts=EXPERTS)
        x = mtf.import_tf_tensor(mtf.Mesh(), inputs(), [BATCH, LENGTH, D_MODEL])
        mtf.initialize(layer)
        with pytest.raises(InputError, match=match):
            layer(x, SequenceCall())


def test_a_gate_without_biases_is_refused() -> None:
    router = functools.partial(moe.Router, gate=moe.Switch(), bias_rate=RATE)
    with pytest.raises(InputError, match=r"only TopK chooses by biases, and this one is Switch"):
        moe.DroplessMoE(mtf.Mesh(), D_MODEL, router=router)
