"""Attention whose projections mixtures of experts compute."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import moe
from mtfrun.models.transformer import (
    AttentionHeads,
    EncoderDecoder,
    FeedForward,
    SelfAttention,
    SequenceCall,
    Stack,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import LAYOUT
from tests.models.small_model import (
    Step,
    assert_same_step,
    assert_steps_equal_whole_rows,
    pairs,
    small_encoder_decoder,
    training_step,
)

TWO_BY_TWO = "data:2,model:2"
HEADS = AttentionHeads(4, d_kv=4)
# Slots for all tokens of a group in evaluations, and groups that two devices divide.
MIXTURE = functools.partial(
    moe.MoE1D,
    num_experts=4,
    router=functools.partial(moe.Router, gate=moe.Switch()),
    capacity=moe.Capacity(evaluation=4.0, group_size=24),
)
PROJECTIONS = zoo.ExpertProjections(
    mixture=MIXTURE, experts=functools.partial(moe.Experts, hidden_size=8)
)
KINDS = {
    "all": PROJECTIONS,
    "memory's alone, apart": dataclasses.replace(
        PROJECTIONS, by_experts=["key", "value"], shared_kv=False
    ),
    "query's alone, without a capacity": dataclasses.replace(
        PROJECTIONS, by_experts=["query"], mixture=functools.partial(moe.DroplessMoE, num_experts=4)
    ),
}
WIDTH = mtf.Dimension("d_model", 6)


def _model(mesh: mtf.Mesh, kind: str, **options: Any) -> EncoderDecoder:
    arguments: dict[str, Any] = {"heads": HEADS, "projections": KINDS[kind]}
    attention = functools.partial(zoo.ExpertsSelfAttention, **arguments)
    to_encoder = functools.partial(zoo.ExpertsEncoderDecoderAttention, **arguments)
    feed_forward = functools.partial(FeedForward, d_ff=16)
    stack = functools.partial(Stack, num_layers=1, **options)
    return small_encoder_decoder(
        mesh,
        encoder=functools.partial(stack, layers=[attention, feed_forward]),
        decoder=functools.partial(stack, layers=[attention, to_encoder]),
    )


@functools.cache
def _step(kind: str, mesh_shape: str, rematerialise: bool) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    return training_step(_model(mesh, kind, rematerialise=rematerialise), mesh, pairs())


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == "all" else pytest.mark.slow) for k in KINDS]
)
def test_every_side_has_its_mixture_with_losses_and_metrics(kind: str) -> None:
    loss, _ = _step(kind, ONE_DEVICE, False)
    loads = {name for name in loss.metrics if name.endswith("/level_1/load")}
    sides = {
        "all": ["mixture", "memory_mixture"],
        "memory's alone, apart": ["memory_mixture"],
        "query's alone, without a capacity": ["mixture"],
    }[kind]
    decoder = "decoder_stack/blocks/0"
    assert loads == {
        "encoder_stack/blocks/0/experts_self_attention/layer/attention/mixture/level_1/load",
        f"{decoder}/experts_self_attention/layer/attention/mixture/level_1/load",
        *(
            f"{decoder}/experts_encoder_decoder_attention/layer/attention/{side}/level_1/load"
            for side in sides
        ),
    }
    assert loss.total > loss.metrics["loss"].total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rematerialise"), [(kind, number == 0) for number, kind in enumerate(KINDS)]
)
def test_training_is_the_same_on_a_mesh(kind: str, rematerialise: bool) -> None:
    assert_same_step(_step(kind, TWO_BY_TWO, rematerialise), _step(kind, ONE_DEVICE, False))


@pytest.mark.slow
@pytest.mark.parametrize(("mesh_shape", "beams"), [(ONE_DEVICE, None), (TWO_BY_TWO, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_decoding_equal_whole_rows(kind: str, mesh_shape: str, beams: int | None) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    assert_steps_equal_whole_rows(_model(mesh, kind), mesh, beams)


def test_one_linear_expert_is_a_linear_projection() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    experts = functools.partial(moe.Experts, hidden_size=5, activations=[None])
    projections = zoo.ExpertProjections(
        ["query", "key", "value"],
        shared_kv=False,
        mixture=functools.partial(MIXTURE, num_experts=1),
        experts=experts,
    )
    layer = zoo.ExpertsSelfAttention(mesh, WIDTH, heads=HEADS, projections=projections)
    plain = SelfAttention(mesh, WIDTH, heads=dataclasses.replace(HEADS, scaled_logits=True))
    mtf.initialize({"layer": layer, "plain": plain}, seed=2)
    values = {path: mtf.to_numpy(v.read()) for path, v in layer.named_variables().items()}
    hidden = values["attention/mixture/experts/wi/factors/0/kernel"][0]
    for path, variable in plain.named_variables().items():
        name = path.rpartition("/")[2]
        value = values.get("attention/output")
        if name != "output":
            value = hidden @ values[f"attention/mixture/experts/wo/{name}/kernel"][0]
        assert value is not None
        sizes = variable.shape.to_integer_list
        mtf.assign(variable, mtf.import_tf_tensor(mesh, value.reshape(sizes), variable.shape))
    x = np.random.default_rng(0).normal(size=[2, 5, 6]).astype(np.float32)
    tensor = mtf.import_tf_tensor(mesh, x, [("batch", 2), ("length", 5), WIDTH])
    actual, expected = (
        mtf.to_numpy(mtf.function(lambda x, each=each: each(x, SequenceCall()))(tensor))
        for each in (layer, plain)
    )
    assert_close(actual, expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    ("heads", "by_experts", "message"),
    [
        ({}, ["key"], "by_experts is 'key'"),
        ({}, [], "by_experts is empty"),
        ({"use_bias": True}, ["query"], "does not support AttentionHeads.use_bias"),
        ({"shared_kv": True}, ["query"], "reads ExpertProjections.shared_kv"),
    ],
)
def test_what_experts_cannot_project_is_refused(
    heads: dict[str, Any], by_experts: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.ExpertsSelfAttention(
            *(mtf.Mesh(ONE_DEVICE), WIDTH),
            heads=AttentionHeads(2, d_kv=4, **heads),
            projections=zoo.ExpertProjections(by_experts),
        )
