"""Mixtures compute their formulas: switches, experts of several sizes, biases of routers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.layers import Collector
from mtfrun.models import moe
from mtfrun.models.transformer import SequenceCall, Sublayer
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import (
    BATCH,
    D_MODEL,
    GATES,
    LAYOUT,
    LENGTH,
    Result,
    assert_same_result,
    dropless,
    inputs,
    one_level,
    padding_mask,
    run,
    two_levels,
)

A_SLOT_FOR_ALL = moe.Capacity(training=8.0, evaluation=8.0, second_level=8.0, group_size=12)
# Of the size of d_model, with its name and with another, and of another size.
OUTPUT_DIMS = [D_MODEL, mtf.Dimension("n", D_MODEL.size), mtf.Dimension("n", 3)]


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": _gelu,
    "linear": lambda x: x,
}
FUNCTIONS = {"relu": mtf.relu, "gelu": mtf.gelu, "linear": None}


def _experts(
    output_dim: mtf.Dimension, activations: Sequence[str] = ("relu",)
) -> Callable[..., moe.Experts]:
    return functools.partial(
        moe.Experts,
        hidden_size=10,
        activations=[FUNCTIONS[name] for name in activations],
        output_dims=() if output_dim == D_MODEL else [output_dim],
    )


def _initialized(layer: Sublayer) -> Sublayer:
    mtf.initialize(layer, seed=1)
    return layer


def _outputs(layer: Sublayer, mesh: mtf.Mesh) -> dict[str, mtf.Tensor]:
    """Returns the outputs for whole sequences, of a prefill, and of a step."""

    def compute(x: mtf.Tensor) -> dict[str, mtf.Tensor]:
        first = mtf.reduce_first(x, LENGTH)
        return {
            "whole": layer(x, SequenceCall()),
            "prefill": layer.prefill(x, (), SequenceCall())[0],
            "step": layer.step(first, (), SequenceCall())[0],
        }

    return mtf.function(compute)(mtf.import_tf_tensor(mesh, inputs(), [BATCH, LENGTH, D_MODEL]))


@pytest.mark.parametrize("output_dim", OUTPUT_DIMS, ids=lambda dim: f"{dim.name}:{dim.size}")
@pytest.mark.parametrize("activations", [["relu"], ["gelu"], ["gelu", "linear"]], ids="_".join)
def test_a_switch_with_a_slot_for_every_token_is_the_formula(
    activations: list[str], output_dim: mtf.Dimension
) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    layer = _initialized(
        one_level(
            mesh,
            gate=moe.Switch(),
            experts=_experts(output_dim, activations),
            capacity=A_SLOT_FOR_ALL,
        )
    )
    weights = {path: mtf.to_numpy(v) for path, v in layer.named_variables().items()}
    x = inputs().astype(np.float64)
    logits = x @ weights["router/kernel"]
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    best = logits.argmax(-1)
    hidden = np.ones([])
    for i, name in enumerate(activations):
        kernel = weights[f"experts/wi/factors/{i}/kernel"][best]
        hidden = hidden * FORMULAS[name](np.einsum("bld,bldh->blh", x, kernel))
    expected = np.einsum("blh,blhn->bln", hidden, weights["experts/wo/kernel"][best])
    expected = expected * gates.max(-1)[..., np.newaxis]

    outputs = _outputs(layer, mesh)
    for output in (outputs["whole"], outputs["prefill"]):
        assert output.shape == mtf.Shape([BATCH, LENGTH, output_dim])
        assert_close(mtf.to_numpy(output), expected, FLOAT32_MODEL_TOLERANCE)
    assert outputs["step"].shape == mtf.Shape([BATCH, output_dim])
    assert_close(mtf.to_numpy(outputs["step"]), expected[:, 0], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("make", [one_level, two_levels])
@pytest.mark.parametrize("output_dim", OUTPUT_DIMS[1:], ids=lambda dim: f"{dim.name}:{dim.size}")
def test_an_output_dimension_keeps_its_name_on_a_mesh(
    make: Callable[..., Sublayer], output_dim: mtf.Dimension
) -> None:
    outputs = {}
    for mesh_shape in (ONE_DEVICE, "data:2,model:2"):
        mesh = mtf.Mesh(mesh_shape, LAYOUT)
        options = {"experts": _experts(output_dim), "capacity": A_SLOT_FOR_ALL}
        outputs[mesh_shape] = _outputs(_initialized(make(mesh, **options)), mesh)
    for name, output in outputs["data:2,model:2"].items():
        positions = [BATCH] if name == "step" else [BATCH, LENGTH]
        assert output.shape == mtf.Shape([*positions, output_dim])
        expected = mtf.to_numpy(outputs[ONE_DEVICE][name])
        assert_close(mtf.to_numpy(output), expected, FLOAT32_MODEL_TOLERANCE)


# Of tokens of 6 and experts of 10 hidden units.
EXPERT = 6 * 10 + 10 * 6
# How many experts a token has; where experts choose, the capacity factor.
EXPERTS_PER_TOKEN = {
    "top_2": 2,
    "top_2_v1": 2,
    "truncated_top_2": 2,
    "switch": 1,
    "no_token_left_behind": 1,
    "batch_prioritized": 1,
    "expert_choice": 1.25,
    "top_n": 3,
    "top_k": 2,
    "top_k_sigmoid": 2,
    "top_2_random": 2,
    "switch_sampled": 1,
}


def _active(layer: layers.Layer) -> float:
    shares = layers.active_shares(layer)
    return sum(v.shape.size * shares.get(v, 1.0) for v in layer.named_variables().values())


@pytest.mark.parametrize("gate", GATES)
def test_of_the_experts_as_many_count_as_a_token_has(gate: str) -> None:
    router = 6 * 4
    layer = one_level(mtf.Mesh(), gate=GATES[gate])
    assert _active(layer) == router + EXPERTS_PER_TOKEN[gate] * EXPERT
    assert sum(v.shape.size for v in layer.named_variables().values()) == router + 4 * EXPERT


def test_without_a_capacity_it_is_the_same() -> None:
    assert _active(dropless(mtf.Mesh(), gate=moe.TopK(3))) == 6 * 4 + 3 * EXPERT


@pytest.mark.parametrize(("gate", "outer", "experts"), [("top_2", 2, 3), ("switch", 1, 1)])
def test_the_first_choice_of_two_levels_has_all_experts_of_its_gate_and_others_one(
    gate: str, outer: int, experts: int
) -> None:
    # 4 experts of the first level, each of them a router of its own for 2 experts.
    routers = 6 * 4 + outer * 6 * 2
    assert _active(two_levels(mtf.Mesh(), gate=GATES[gate])) == routers + experts * EXPERT


def test_a_gate_never_has_more_experts_than_there_are() -> None:
    assert zoo.TopN(5).experts_per_token(4, 1.0) == 4
    assert moe.ExpertChoice().experts_per_token(4, 8.0) == 4


SIZES = [(1, 10), (2, 4, 2), (1, 7)]
SIZES_EXPERTS = functools.partial(zoo.HeterogeneousExperts, sizes=SIZES)
SIZES_A_SLOT_FOR_ALL = moe.Capacity(training=8.0, evaluation=8.0, group_size=12)


@functools.cache
def _run(make: Callable[..., Any], mesh_shape: str) -> Result:
    options: dict[str, Any] = {} if make is dropless else {"capacity": SIZES_A_SLOT_FOR_ALL}
    # Losses count groups, and of a mixture without a capacity all tokens are one.
    make = functools.partial(
        make, gate=moe.Switch(), experts=SIZES_EXPERTS, loss_coef=0.0, **options
    )
    return run(make, mtf.Mesh(mesh_shape, LAYOUT), training=False)


def test_experts_have_the_units_and_layers_of_their_sizes() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    layer = one_level(mesh, gate=moe.Switch(), experts=SIZES_EXPERTS, capacity=SIZES_A_SLOT_FOR_ALL)
    mtf.initialize(layer, seed=1)
    values = {path: mtf.to_numpy(v.read()) for path, v in layer.named_variables().items()}
    x = inputs()
    logits = x @ values["router/kernel"]
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = np.zeros_like(x)
    sizes = [(10, 1), (4, 2), (4, 2), (7, 1)]
    for expert, (units, num_layers) in enumerate(sizes):
        wi = values["experts/wi/factors/0/kernel"][expert, :, :units]
        y = np.maximum(x @ wi, 0.0) @ values["experts/wo/kernel"][expert, :units]
        if num_layers == 2:
            normed = y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + 1e-6)
            wi = values["experts/layers/1/wi/factors/0/kernel"][expert, :, :units]
            wo = values["experts/layers/1/wo/kernel"][expert, :units]
            y = y + np.maximum(normed @ wi, 0.0) @ wo
        is_expert = logits.argmax(axis=-1) == expert
        expected[is_expert] = (weights[..., expert, np.newaxis] * y)[is_expert]
        assert is_expert.any()
    assert_close(_run(one_level, ONE_DEVICE).output, expected, FLOAT32_MODEL_TOLERANCE)


def test_hidden_units_behind_a_mask_have_no_gradient() -> None:
    gradients = _run(one_level, ONE_DEVICE).gradients
    first, second = (
        np.abs(gradients[f"experts/{path}"]).max(axis=-1) > 0.0
        for path in ("wo/kernel", "layers/1/wo/kernel")
    )
    assert first[0].any() and not first[1:3, 4:].any() and not first[3, 7:].any()
    assert second[1, :4].any() and not second[1:3, 4:].any() and not second[[0, 3]].any()


def test_they_are_the_same_without_a_capacity() -> None:
    assert_same_result(_run(dropless, ONE_DEVICE), _run(one_level, ONE_DEVICE))


@pytest.mark.slow
@pytest.mark.parametrize("make", [one_level, dropless])
def test_they_are_the_same_on_a_mesh(make: Callable[..., Any]) -> None:
    assert_same_result(_run(make, "data:4,model:2"), _run(make, ONE_DEVICE))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(3, 8)], "have 3 experts"),
        ([(4, 0)], "hidden_size is 0"),
        ([(4,)], r"must be \(num_experts, hidden_size\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: Any, message: str) -> None:
    experts = functools.partial(zoo.HeterogeneousExperts, sizes=sizes)
    with pytest.raises(ValueError, match=message):
        one_level(mtf.Mesh(ONE_DEVICE), experts=experts)


RATE = 0.25
BIAS = np.array([0.9, -0.9, 0.3, 0.0], np.float32)
GATE = moe.TopK(2, sigmoid=True, scale=1.5)
GROUPS = moe.TopK(2, sigmoid=True, scale=1.5, num_groups=2)


def _layer(mesh: mtf.Mesh, kind: str) -> moe.DroplessMoE | moe.MoE1D:
    gate = GROUPS if kind == "groups" else GATE
    router = functools.partial(moe.Router, gate=gate, bias_rate=RATE)
    layer: moe.DroplessMoE | moe.MoE1D = dropless(mesh, router=router)
    if kind == "capacity":
        layer = one_level(mesh, router=router, capacity=moe.Capacity(training=4.0, group_size=12))
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
        of_groups = biased.reshape([*biased.shape[:-1], 2, 2]).sum(axis=-1, keepdims=True)
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
        pytest.param("data:2,model:2", marks=pytest.mark.slow),
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
        (moe.TopK(3, num_groups=2), r"TopK.num_experts is 3: it must be .* at most 2"),
    ):
        layer = dropless(mtf.Mesh(), gate=gate)
        x = mtf.import_tf_tensor(mtf.Mesh(), inputs(), [BATCH, LENGTH, D_MODEL])
        mtf.initialize(layer)
        with pytest.raises(InputError, match=match):
            layer(x, SequenceCall())


def test_a_gate_without_biases_is_refused() -> None:
    router = functools.partial(moe.Router, gate=moe.Switch(), bias_rate=RATE)
    with pytest.raises(InputError, match=r"bias_rate=.* needs gate=@moe.TopK\(\), not Switch"):
        moe.DroplessMoE(mtf.Mesh(), D_MODEL, router=router)
