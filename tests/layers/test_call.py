"""The call of a layer: its signature, what it collects, and rematerialisation."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.configuration.published import exported_names
from mtfrun.errors import InputError
from mtfrun.extras import huggingface
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.layers import ActivationScale, Call, Collector
from mtfrun.models import Model, moe, transformer
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

# Not modules, for they have no variables.
STATELESS_TRANSFORMS = (transformer.CallLayer, transformer.MaskPadding, transformer.Residual)
# Their results are not one tensor.
WITH_OTHER_RESULTS: dict[type, type] = {moe.Router: moe.Routing}


def _layer_classes() -> dict[str, type]:
    """Returns the public classes of layers that can be called, by name."""
    public = {
        f"{package.__name__.removeprefix('mtfrun.')}.{name}": getattr(package, name)
        for package in (layers, transformer, moe, zoo, huggingface)
        for name in exported_names(package)
    }
    return {
        name: cls
        for name, cls in public.items()
        if inspect.isclass(cls)
        and issubclass(cls, (mtf.Module, *STATELESS_TRANSFORMS))
        and not issubclass(cls, (Model, transformer.TokenLossTerm))
        and any("__call__" in vars(base) for base in cls.__mro__)
    }


CLASSES = _layer_classes()


@pytest.mark.parametrize("name", CLASSES)
def test_a_layer_is_called_with_the_call_last_and_returns_a_tensor(name: str) -> None:
    function = inspect.unwrap(CLASSES[name].__call__)
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert positional[-1].name == "call"
    assert positional[-1].default is inspect.Parameter.empty
    hints = typing.get_type_hints(function)
    assert issubclass(hints["call"], layers.Call)
    assert hints["return"] is WITH_OTHER_RESULTS.get(CLASSES[name], mtf.Tensor)


def test_layers_of_all_packages_are_among_them() -> None:
    assert {"layers.Dense", "models.transformer.Residual", "models.moe.MoE2D"} <= CLASSES.keys()


@dataclasses.dataclass(frozen=True)
class Memory:
    """A part of a call with tensors of its own."""

    output: mtf.Tensor = layers.differentiated_field()
    mask: mtf.Tensor | None = None


@dataclasses.dataclass(frozen=True)
class CallWithMemory(layers.Call):
    """A call with tensors that layers read, as that of a Transformer."""

    bias: mtf.Tensor | None = layers.differentiated_field(default=None)
    memory: Memory | None = None


WIDTH = mtf.Dimension("d_model", 4)
SHAPE = mtf.Shape([mtf.Dimension("batch", 8), WIDTH])


class Mixing(layers.Layer):
    """tanh(x * scale * memory + bias), with a loss, a measurement and a moving average."""

    def __init__(self, mesh: mtf.Mesh) -> None:
        super().__init__()
        self.scale = mtf.Variable(mesh, [WIDTH], mtf.initializers.RandomNormal(1.0))
        self.average = mtf.Variable(mesh, [WIDTH], trainable=False)

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        return {"sums": mtf.Shape([WIDTH])}

    @property
    def updated_variables(self) -> list[mtf.Variable]:
        return [self.average]

    def __call__(self, x: mtf.Tensor, call: CallWithMemory) -> mtf.Tensor:
        assert call.memory is not None and call.bias is not None
        y = mtf.tanh(x * self.scale * call.memory.output + call.bias)
        if call.collector is not None:
            call.collector.add_loss(self, mtf.reduce_mean(mtf.square(y)))
            sums = mtf.reduce_sum(mtf.stop_gradient(y), output_shape=[WIDTH])
            one = mtf.constant(x.mesh, 1.0)
            call.collector.add_metrics(self, {"sums": layers.Metric(sums, one)})
            if call.training:
                call.collector.add_update(self.average, 0.9 * self.average + sums)
        return y


class Network(mtf.Module):
    """Two layers."""

    def __init__(self, mesh: mtf.Mesh) -> None:
        super().__init__()
        self.first, self.second = Mixing(mesh), Mixing(mesh)

    def __call__(self, x: mtf.Tensor, call: CallWithMemory) -> mtf.Tensor:
        return self.second(self.first(x, call), call)


def _network() -> tuple[mtf.Mesh, Network]:
    mesh = mtf.Mesh(ONE_DEVICE)
    network = Network(mesh)
    mtf.initialize(network, seed=1)
    return mesh, network


def _run(mesh_shape: str, *, rematerialise: bool) -> tuple[Any, dict[str, np.ndarray]]:
    """Returns the output with everything collected, and the gradients of all floats."""
    mesh = mtf.Mesh(mesh_shape, "batch:data")
    network = Network(mesh)
    initial = mtf.initializers.RandomNormal(1.0)
    tensors = {name: mtf.Variable(mesh, SHAPE, initial) for name in ("x", "bias", "memory")}
    mtf.initialize([network], seed=1)
    mtf.initialize(tensors, seed=2)
    variables = {path: v for path, v in network.named_variables().items() if v.trainable} | tensors

    def compute() -> Any:
        def total() -> tuple[mtf.Tensor, Any]:
            x, bias, memory = (mtf.read_variable(tensors[n]) for n in ("x", "bias", "memory"))
            collector = layers.Collector()
            call = CallWithMemory(True, None, collector, bias=bias, memory=Memory(memory))
            y = layers.recompute(network, x, call) if rematerialise else network(x, call)
            loss = collector.total_loss()
            assert loss is not None
            return mtf.reduce_sum(mtf.sin(y)) + loss, (y, collector.contents)

        (_, results), gradients = mtf.value_and_gradients(total, variables)
        return results, gradients

    return mtf.to_numpy(mtf.function(compute)())


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_a_recomputed_function_collects_and_has_gradients_as_any_other(mesh_shape: str) -> None:
    (expected_y, expected), expected_gradients = _run(ONE_DEVICE, rematerialise=False)
    (y, collected), gradients = _run(mesh_shape, rematerialise=True)
    assert_close(y, expected_y)
    assert collected.losses.keys() == {"0/first", "0/second"}
    assert collected.metrics.keys() == {"0/first/sums", "0/second/sums"}
    assert collected.updates.keys() == {"0/first/average", "0/second/average"}
    for path, loss in expected.losses.items():
        assert_close(collected.losses[path], loss)
    for name, metric in expected.metrics.items():
        assert_close(collected.metrics[name].total, metric.total)
    for path, value in expected.updates.items():
        assert_close(collected.updates[path], value)
    assert gradients.keys() == {"first/scale", "second/scale", "x", "bias", "memory"}
    for path, gradient in expected_gradients.items():
        assert np.abs(gradient).min() > 0.0, path
        assert_close(gradients[path], gradient)


def test_a_call_without_a_collector_may_be_recomputed() -> None:
    mesh, network = _network()
    x = mtf.ones(mesh, SHAPE)
    call = CallWithMemory(True, bias=x, memory=Memory(x))
    expected = mtf.to_numpy(network(x, call))
    assert_close(mtf.to_numpy(layers.recompute(network, x, call)), expected)


def test_the_losses_and_measurements_of_two_calls_add_up() -> None:
    mesh, network = _network()
    collector = layers.Collector()
    assert collector.total_loss() is None
    for value in (1.0, 2.0):
        collector.add_loss(network.first, mtf.constant(mesh, value))
        metric = layers.Metric(mtf.constant(mesh, 10.0 * value), mtf.constant(mesh, value))
        collector.add_metrics(network.first, {"mean": metric})
    collector.add_loss(network.second, mtf.constant(mesh, 4.0))
    other = layers.Collector()
    other.add_all(collector.contents)
    other.add_all(collector.contents)
    loss = other.total_loss()
    assert loss is not None and mtf.to_numpy(loss) == 14.0
    contents = mtf.to_numpy(other.contents)
    assert contents.losses == {"first": 6.0, "second": 8.0}
    assert contents.metrics == {"first/mean": (60.0, 6.0)}


def test_a_variable_has_one_update_a_step() -> None:
    mesh, network = _network()
    collector = layers.Collector()
    collector.add_update(network.first.average, mtf.ones(mesh, [WIDTH]))
    with pytest.raises(InputError, match=r"first/average has two updates in one step"):
        collector.add_update(network.first.average, mtf.ones(mesh, [WIDTH]))
    with pytest.raises(InputError, match=r"first/average has two updates in one step"):
        collector.add_all(collector.contents)


def test_what_layers_collect_is_known_before_the_first_call() -> None:
    _, network = _network()
    shape = mtf.Shape([WIDTH])
    assert layers.metric_shapes(network) == {"first/sums": shape, "second/sums": shape}
    assert layers.updated_paths(network) == ["first/average", "second/average"]


# Masks and numbers of positions are computed from ids; `sublayer_input` is set inside of what is
# rematerialised.
WITHOUT_GRADIENTS = {
    *("position", "prompt_lengths", "nonpadding", "segments", "text_positions", "sublayer_input")
}
# Of queries and memory the positions, documents and ids, of which masks are computed; constants.
OF_MASKS = {"query", "memory", "slopes"}


def test_every_tensor_of_a_sequence_call_has_gradients_or_needs_none() -> None:
    parts = (
        transformer.SequenceCall,
        transformer.EncoderMemory,
        transformer.DecodingProgress,
        *layers.BiasTerm.__subclasses__(),
    )
    fields = [field for part in parts for field in dataclasses.fields(part)]
    tensors = {
        f.name: bool(f.metadata)
        for f in fields
        if "mtf.Tensor" in str(f.type) and "Callable" not in str(f.type)
    }
    assert {name for name, has_gradients in tensors.items() if not has_gradients} == (
        WITHOUT_GRADIENTS | OF_MASKS
    )
    with_gradients = tensors.keys() - WITHOUT_GRADIENTS - OF_MASKS
    assert with_gradients == {"output", "bias", "table"}


ACTIVATION_SCALE_SHAPE = mtf.convert_to_shape("batch:4;length:6;d_model:8")


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

    results = mtf.to_numpy(measured(mtf.import_tf_tensor(mesh, values, ACTIVATION_SCALE_SHAPE)))
    assert {name.removeprefix("/") for name in results} == {"rms", "max"}
    by_name = {name.removeprefix("/"): value for name, value in results.items()}
    assert_close(by_name["rms"], np.sqrt(np.mean(values**2)))
    assert_close(by_name["max"], np.abs(values).max())


def _metrics_of_stack(mesh_shape: str, scan_blocks: int | None) -> dict[str, np.ndarray]:
    mesh = mtf.Mesh(mesh_shape, "batch:data;heads:model;d_ff:model")
    stack = Stack(
        mesh,
        ACTIVATION_SCALE_SHAPE.dims[-1],
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
        measured(mtf.import_tf_tensor(mesh, values, ACTIVATION_SCALE_SHAPE))
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
