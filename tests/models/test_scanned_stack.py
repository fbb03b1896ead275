"""A loop over groups of blocks: the numbers, paths and measurements of unrolled blocks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import moe
from mtfrun.models.transformer import (
    AttentionHeads,
    CallLayer,
    DepthwiseConvolution,
    EncoderDecoderAttention,
    EncoderMemory,
    FeedForward,
    Residual,
    RMSNorm,
    SelfAttention,
    SequenceCall,
    Stack,
    StackTransforms,
    Sublayer,
    SublayerDropout,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

WIDTH, BATCH = mtf.Dimension("d_model", 8), mtf.Dimension("batch", 4)
LENGTH, MEMORY = mtf.Dimension("length", 6), mtf.Dimension("memory_length", 6)
LAYOUT = "batch:data;d_ff:model;heads:model;experts:data"
HEADS = AttentionHeads(2, d_kv=4)
DROPOUT = functools.partial(SublayerDropout, rate=0.25)
INPUTS = {"x": [BATCH, LENGTH, WIDTH], "encoder": [BATCH, MEMORY, WIDTH], "bias": [LENGTH, MEMORY]}


class ScaledByMean(Sublayer):
    """A sublayer of a user: it has a moving average, and recomputes its product."""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension, dtypes: mtf.DTypePolicy) -> None:
        super().__init__()
        self.kernel = mtf.Variable(mesh, [d_model], mtf.initializers.RandomNormal(1.0))
        self.mean = mtf.Variable(mesh, [d_model], mtf.initializers.Ones(), trainable=False)

    @property
    def updated_variables(self) -> Sequence[mtf.Variable]:
        return [self.mean]

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        if call.collector is not None:
            mean = mtf.reduce_mean(mtf.abs(x), output_shape=[WIDTH])
            call.collector.add_update(self.mean, 0.5 * (mtf.read_variable(self.mean) + mean))
        return layers.recompute(lambda x, _: mtf.sin(x * self.kernel) * self.mean, x, call)


EXPERTS = functools.partial(moe.Experts, hidden_size=8, dropout_rate=0.25)
LIMITED = functools.partial(
    moe.MoE1D, num_experts=4, experts=EXPERTS, capacity=moe.Capacity(group_size=6)
)
DROPLESS = functools.partial(moe.DroplessMoE, num_experts=4, experts=EXPERTS)


def _stack(
    mesh: mtf.Mesh,
    *,
    mixture: Any = LIMITED,
    layers_of_block: Sequence[Any] | None = None,
    num_layers: int = 4,
    **options: Any,
) -> Stack:
    usual = [
        functools.partial(SelfAttention, heads=HEADS, dropout_rate=0.25),
        functools.partial(EncoderDecoderAttention, heads=HEADS),
        ScaledByMean,
        mixture,
    ]
    stack = Stack(
        mesh,
        WIDTH,
        num_layers=num_layers,
        layers=layers_of_block or usual,
        transforms=StackTransforms(layer=[RMSNorm, CallLayer, DROPOUT, Residual]),
        **options,
    )
    mtf.initialize(stack, seed=3)
    return stack


def _results(mesh_shape: str, *, training: bool = True, **options: Any) -> dict[str, Any]:
    """Returns the loss, gradients, and what is collected, by path."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    stack = _stack(mesh, **options)
    initializer = mtf.initializers.RandomNormal(1.0)
    tensors = {name: mtf.Variable(mesh, shape, initializer) for name, shape in INPUTS.items()}
    mtf.initialize(tensors, seed=4)
    trained = {path: v for path, v in stack.named_variables().items() if v.trainable} | tensors

    def compute(key_number: mtf.Tensor) -> Any:
        collector = layers.Collector()

        def total() -> mtf.Tensor:
            x, output, bias = (mtf.read_variable(variable) for variable in tensors.values())
            call = SequenceCall(
                training,
                mtf.random_key(0, key_number),
                collector,
                self_attention_bias=layers.AttentionBias.of(layers.TensorBias(bias)),
                encoder=EncoderMemory(output),
            )
            loss = mtf.reduce_sum(mtf.sin(stack(x, call)))
            of_layers = collector.total_loss()
            assert of_layers is not None
            return loss + 100.0 * of_layers

        if not training:
            return total(), {}, collector.contents
        return *mtf.value_and_gradients(total, trained), collector.contents

    number = mtf.constant(mesh, 7, dtype=tf.int32)
    loss, gradients, collected = mtf.to_numpy(mtf.function(compute)(number))
    flat = {f"gradient of {path}": value for path, value in gradients.items()}
    for kind, part in collected._asdict().items():
        for path, value in part.items():
            flat |= {f"{kind} of {path}, {i}": x for i, x in enumerate(tf.nest.flatten(value))}
    return {"loss": loss, **flat}


@functools.cache
def _unrolled(training: bool, mixture: Any = LIMITED, num_layers: int = 4) -> dict[str, Any]:
    return _results(ONE_DEVICE, training=training, mixture=mixture, num_layers=num_layers)


def _assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max()))
        assert_close(actual[name] / scale, value / scale, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    "mesh_shape, num_layers, scan_blocks",
    [
        (ONE_DEVICE, 2, 1),
        pytest.param("data:2,model:2", 4, 2, marks=pytest.mark.slow),
        pytest.param(ONE_DEVICE, 4, 1, marks=pytest.mark.slow),
        pytest.param(ONE_DEVICE, 4, 4, marks=pytest.mark.slow),
    ],
)
def test_a_loop_changes_neither_gradients_nor_noise_nor_what_layers_collect(
    mesh_shape: str, num_layers: int, scan_blocks: int
) -> None:
    expected = _unrolled(True, num_layers=num_layers)
    last = f"blocks/{num_layers - 1}"
    assert f"losses of {last}/moe_1d/layer, 0" in expected
    assert f"metrics of {last}/moe_1d/layer/experts_per_token, 0" in expected
    assert f"updates of {last}/scaled_by_mean/layer/mean, 0" in expected
    for path in ("x", "encoder", "bias", "blocks/0/scaled_by_mean/layer/kernel"):
        assert np.abs(expected[f"gradient of {path}"]).max() > 0.0
    results = _results(mesh_shape, num_layers=num_layers, scan_blocks=scan_blocks)
    _assert_same(results, expected)


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape, training", [(ONE_DEVICE, False), ("data:2,model:2", True)])
def test_a_loop_changes_nothing_where_no_token_is_dropped(mesh_shape: str, training: bool) -> None:
    results = _results(mesh_shape, training=training, scan_blocks=2, mixture=DROPLESS)
    _assert_same(results, _unrolled(training, DROPLESS))


@pytest.mark.slow
def test_a_loop_changes_nothing_in_evaluation() -> None:
    _assert_same(_results("data:2,model:2", training=False, scan_blocks=2), _unrolled(False))


@pytest.mark.slow
def test_a_loop_changes_nothing_of_layers_that_mesh_tensorflow_had() -> None:
    heads = zoo.TalkingHeads([("key_heads", 2)], [("heads", 2)], [("value_heads", 2)], 4, 4)
    filters = functools.partial(zoo.DynamicFilters, repeats=2)
    layers_of_block = [
        functools.partial(zoo.TalkingHeadsSelfAttention, heads=heads, dropout_rate=0.25),
        functools.partial(DepthwiseConvolution, filters=filters),
        functools.partial(zoo.Synthesizer, num_heads=2, d_kv=4),
        functools.partial(zoo.TalkingHeadsEncoderDecoderAttention, heads=heads),
        LIMITED,
    ]
    options: dict[str, Any] = {"layers_of_block": layers_of_block, "num_layers": 2}
    expected = _results(ONE_DEVICE, **options)
    _assert_same(_results("data:2,model:2", scan_blocks=1, **options), expected)


def _operations(num_layers: int) -> int:
    """Returns the number of operations of a looped stack's forward and backward pass."""
    mesh = mtf.Mesh(ONE_DEVICE)
    feed_forward = functools.partial(FeedForward, d_ff=8)
    stack = Stack(mesh, WIDTH, num_layers=num_layers, layers=[feed_forward], scan_blocks=2)
    mtf.initialize(stack)
    x = mtf.ones(mesh, [BATCH, LENGTH, WIDTH])

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def compute() -> Any:
        call = SequenceCall(training=True)
        return [
            gradient.value
            for gradient in mtf.value_and_gradients(
                lambda: mtf.reduce_sum(stack(x, call)), stack.named_variables()
            )[1].values()
            if gradient is not None
        ]

    graph = compute.get_concrete_function().graph.as_graph_def()
    bodies = [function.node_def for function in graph.library.function]
    return sum(node.op == "MatMul" or node.op == "Einsum" for body in bodies for node in body)


@pytest.mark.slow
def test_the_program_has_as_many_products_for_any_number_of_layers() -> None:
    assert _operations(4) == _operations(8) > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scan_blocks": 0}, "scan_blocks=0 must divide"),
        ({"scan_blocks": 3}, "scan_blocks=3 must divide"),
        ({"rematerialise": ["dense"]}, "excludes StackTransforms.first and a list as remat"),
        ({"transforms": StackTransforms(first=[CallLayer])}, "excludes StackTransforms.first"),
    ],
)
def test_a_loop_over_other_blocks_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stack(mtf.Mesh(ONE_DEVICE), WIDTH, **{"num_layers": 4, "scan_blocks": 1, **options})


def test_a_loop_over_different_blocks_is_refused() -> None:
    sizes = iter([8, 16])

    class Grows(FeedForward):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, d_ff=next(sizes))

    mesh = mtf.Mesh(ONE_DEVICE)
    stack = Stack(mesh, WIDTH, num_layers=2, layers=[Grows], scan_blocks=1)
    mtf.initialize(stack)
    with pytest.raises(ValueError, match=r"equal blocks.*kernel' of round 1.*scan_blocks"):
        stack(mtf.ones(mesh, [BATCH, LENGTH, WIDTH]), SequenceCall())
