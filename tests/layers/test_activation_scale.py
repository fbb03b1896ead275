"""The measurement of activations."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.layers import ActivationScale, Call, Collector
from mtfrun.models.transformer import (
    AttentionHeads,
    CallLayer,
    FeedForward,
    Residual,
    RMSNorm,
    SelfAttention,
    Stack,
    StackTransforms,
)
from mtfrun.models.transformer.sublayer import SequenceCall
from tests.layouts import ONE_DEVICE, assert_close

SHAPE = mtf.convert_to_shape("batch:4;length:6;d_model:8")


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_values_are_those_of_numpy(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;d_model:model")
    values = np.random.default_rng(0).normal(size=[4, 6, 8]).astype(np.float32)
    layer = ActivationScale()
    mtf.initialize(layer, 0)

    @mtf.function
    def measured(x: mtf.Tensor) -> dict[str, mtf.Tensor]:
        collector = Collector()
        assert layer(x, Call(collector=collector)) is x
        metrics = collector.contents.metrics
        return {name: metric.total / metric.weight for name, metric in metrics.items()}

    results = mtf.to_numpy(measured(mtf.import_tf_tensor(mesh, values, SHAPE)))
    assert {name.removeprefix("/") for name in results} == {"rms", "max"}
    by_name = {name.removeprefix("/"): value for name, value in results.items()}
    assert_close(by_name["rms"], np.sqrt(np.mean(values**2)))
    assert_close(by_name["max"], np.abs(values).max())


def _metrics_of_stack(mesh_shape: str, scan_blocks: int | None) -> dict[str, np.ndarray]:
    mesh = mtf.Mesh(mesh_shape, "batch:data;heads:model;d_ff:model")
    stack = Stack(
        mesh,
        SHAPE.dims[-1],
        num_layers=2,
        layers=[
            functools.partial(SelfAttention, heads=AttentionHeads(num_heads=4, d_kv=4)),
            functools.partial(FeedForward, d_ff=16),
        ],
        transforms=StackTransforms([], [RMSNorm, CallLayer, Residual], [], activation_scale=True),
        scan_blocks=scan_blocks,
    )
    mtf.initialize(stack, 0)
    assert not any("activation" in path for path in stack.named_variables())
    values = np.random.default_rng(0).normal(size=[4, 6, 8]).astype(np.float32)

    @mtf.function
    def measured(x: mtf.Tensor) -> dict[str, mtf.Tensor]:
        collector = Collector()
        stack(x, SequenceCall(training=True, key=mtf.random_key(0), collector=collector))
        return {name: metric.total for name, metric in collector.contents.metrics.items()}

    results: dict[str, np.ndarray] = mtf.to_numpy(
        measured(mtf.import_tf_tensor(mesh, values, SHAPE))
    )
    return results


@pytest.mark.parametrize(("mesh_shape", "scan_blocks"), [("data:2,model:2", None), (ONE_DEVICE, 1)])
def test_a_stack_measures_every_sublayer_in_loops_and_under_layouts(
    mesh_shape: str, scan_blocks: int | None
) -> None:
    expected = _metrics_of_stack(ONE_DEVICE, None)
    assert set(expected) == {
        f"blocks/{block}/{layer}/activation/{name}"
        for block in range(2)
        for layer in ("self_attention", "feed_forward")
        for name in ("rms", "max")
    }
    assert expected["blocks/1/feed_forward/activation/rms"] > 0
    for name, value in _metrics_of_stack(mesh_shape, scan_blocks).items():
        assert_close(value, expected[name])
