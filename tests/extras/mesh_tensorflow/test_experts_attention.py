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
    assert_steps_equal_whole_rows,
    on_mesh,
    pairs,
    small_encoder_decoder,
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
def _training(kind: str, mesh_shape: str, rematerialise: bool) -> Any:
    """Returns the loss of padded pairs, with its metrics, and gradients."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = _model(mesh, kind, rematerialise=rematerialise)

    def run(features: dict[str, mtf.Tensor]) -> Any:
        def total() -> tuple[mtf.Tensor, Any]:
            loss = model.loss(features, training=True, key=mtf.random_key(0))
            return loss.total, loss

        return mtf.value_and_gradients(total, model.named_variables())

    (_, loss), gradients = mtf.to_numpy(mtf.function(run)(on_mesh(mesh, pairs())))
    return loss, gradients


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == "all" else pytest.mark.slow) for k in KINDS]
)
def test_every_side_has_its_mixture_with_losses_and_metrics(kind: str) -> None:
    loss, gradients = _training(kind, ONE_DEVICE, False)
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
    for path, gradient in gradients.items():
        assert np.abs(gradient).max() > 0.0, path


@pytest.mark.slow
@pytest.mark.parametrize("rematerialise", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_on_a_mesh(kind: str, rematerialise: bool) -> None:
    loss, gradients = _training(kind, ONE_DEVICE, False)
    other_loss, other_gradients = _training(kind, TWO_BY_TWO, rematerialise)
    for name, metric in loss.metrics.items():
        assert_close(other_loss.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)
    for path, gradient in gradients.items():
        assert_close(other_gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [None, 2])
@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, TWO_BY_TWO])
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
    ("options", "message"),
    [({"by_experts": ["key"]}, "by_experts is 'key'"), ({"by_experts": []}, "by_experts is empty")],
)
def test_projections_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.ExpertProjections(**options)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (AttentionHeads(2, d_kv=4, use_bias=True), "does not support AttentionHeads.use_bias"),
        (AttentionHeads(2, d_kv=4, shared_kv=True), "reads ExpertProjections.shared_kv"),
    ],
)
def test_heads_without_a_counterpart_are_refused(heads: AttentionHeads, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.ExpertsSelfAttention(mtf.Mesh(ONE_DEVICE), WIDTH, heads=heads)
