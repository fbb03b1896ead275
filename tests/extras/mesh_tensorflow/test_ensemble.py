"""Ensembles: members that are trained side by side, and predict together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import decoding, mtf, optim
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import moe
from mtfrun.models import transformer as t
from mtfrun.models.transformer.tokens.token_model import TokenModel
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    VOCABULARY,
    assert_steps_equal_whole_rows,
    on_mesh,
    packed_rows,
    with_dropout,
)

TWO_BY_TWO = "data:2,model:2"
LAYOUTS = ("ensemble:data;heads:model;d_ff:model;vocab:model", "ensemble:model;batch:data")
HEADS = t.AttentionHeads(4, d_kv=4)
ATTENTION = functools.partial(t.SelfAttention, heads=HEADS, dropout_rate=0.1)
FEED_FORWARD = functools.partial(t.GatedFeedForward, d_ff=32)
RELATIVE = functools.partial(t.RelativePositionBias, num_heads=4, num_buckets=8)
EMBEDDING = t.TokenEmbedding(d_model=16, max_length=16)


def _language_model(layers: Any = (ATTENTION, FEED_FORWARD), **options: Any) -> Any:
    stack = functools.partial(
        t.Stack, num_layers=1, layers=layers, relative_bias=RELATIVE, transforms=with_dropout(0.1)
    )
    return functools.partial(t.DecoderOnly, stack=stack, **{"embedding": EMBEDDING, **options})


def _ensemble(mesh: mtf.Mesh, model: Any, **options: Any) -> TokenModel:
    ensemble = zoo.make_ensemble(mesh, model=model, vocabulary_size=VOCABULARY, **options)
    mtf.initialize(ensemble, seed=3)
    return ensemble


def _run(model: TokenModel, mesh: mtf.Mesh, *, training: bool) -> Any:
    """Returns the logits of rows, and the loss with gradients."""

    def compute(features: dict[str, mtf.Tensor]) -> Any:
        def total() -> tuple[mtf.Tensor, Any]:
            key = mtf.random_key(0) if training else None
            loss = model.loss(features, training=training, key=key)
            return loss.total, loss

        (_, loss), gradients = mtf.value_and_gradients(total, model.named_variables())
        return model.logits(features), loss, gradients

    return mtf.to_numpy(mtf.function(compute)(on_mesh(mesh, packed_rows())))


@functools.cache
def _trained(mesh_shape: str, layout: str) -> Any:
    mesh = mtf.Mesh(mesh_shape, layout)
    return _run(_ensemble(mesh, _language_model()), mesh, training=True)


def _single_model(make: Callable[..., Any], ensemble: Any, member: int) -> Any:
    """Returns a model without others, with the values of a member."""
    values = ensemble.named_variables()
    mesh = next(iter(values.values())).mesh
    model = make(mesh, VOCABULARY)
    mtf.initialize(model)
    for path, variable in model.named_variables().items():
        value = mtf.to_numpy(values[path].read())[member]
        mtf.assign(variable, mtf.import_tf_tensor(mesh, value, variable.shape))
    return model


@pytest.mark.slow
def test_members_are_single_models_with_other_values() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    make = _language_model()
    ensemble = _ensemble(mesh, make)
    logits, loss, _ = _run(ensemble, mesh, training=False)
    probabilities = []
    for member in range(2):
        model = _single_model(make, ensemble, member)
        of_member, *_ = _run(model, mesh, training=False)
        exp = np.exp(of_member - of_member.max(axis=-1, keepdims=True))
        probabilities.append(exp / exp.sum(axis=-1, keepdims=True))
    assert_close(np.exp(logits), np.mean(probabilities, axis=0), FLOAT32_MODEL_TOLERANCE)
    assert np.abs(probabilities[0] - probabilities[1]).max() > 0.01
    targets = packed_rows()["targets"]
    nats = -np.take_along_axis(logits, targets[..., np.newaxis], axis=-1)[..., 0]
    assert_close(loss.total, nats[targets > 0].sum(), FLOAT32_MODEL_TOLERANCE)
    assert loss.weight == np.count_nonzero(targets)


def test_every_member_is_trained_as_if_it_were_alone() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    make = _language_model(loss=t.TokenLoss(z_loss=0.01))
    layers = functools.partial(t.Stack, num_layers=1, layers=[FEED_FORWARD])
    make = functools.partial(make, stack=layers)  # without dropout
    ensemble = _ensemble(mesh, make)
    _, loss, gradients = _run(ensemble, mesh, training=True)
    totals = []
    for member in range(2):
        model = _single_model(make, ensemble, member)
        _, alone, expected = _run(model, mesh, training=True)
        for path, gradient in expected.items():
            assert_close(gradients[path][member], gradient, FLOAT32_MODEL_TOLERANCE)
        totals.append(alone)
    assert_close(loss.total, sum(each.total for each in totals), FLOAT32_MODEL_TOLERANCE)
    assert loss.weight == totals[0].weight
    for name, metric in loss.metrics.items():
        mean = np.mean([each.metrics[name].total for each in totals], dtype=np.float32)
        assert_close(metric.total, mean, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [LAYOUTS[0], (LAYOUTS[1])])
def test_members_on_different_devices_change_nothing(layout: str) -> None:
    logits, loss, gradients = _trained(ONE_DEVICE, "")
    other_logits, other_loss, other_gradients = _trained(TWO_BY_TWO, layout)
    assert_close(other_logits, logits, FLOAT32_MODEL_TOLERANCE)
    assert_close(other_loss.total, loss.total, FLOAT32_MODEL_TOLERANCE)
    for path, gradient in gradients.items():
        assert np.abs(gradient).max() > 0.0, path
        assert_close(other_gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


def _encoder_decoder() -> Any:
    to_encoder = functools.partial(t.EncoderDecoderAttention, heads=HEADS)
    stack = functools.partial(t.Stack, num_layers=1)
    return functools.partial(
        t.EncoderDecoder,
        embedding=EMBEDDING,
        encoder=functools.partial(stack, layers=[ATTENTION, FEED_FORWARD]),
        decoder=functools.partial(stack, layers=[ATTENTION, to_encoder, FEED_FORWARD]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("beams", [None, 2])
@pytest.mark.parametrize("where", [(ONE_DEVICE, ""), (TWO_BY_TWO, LAYOUTS[0])])
def test_steps_of_decoding_equal_whole_rows(where: tuple[str, str], beams: int | None) -> None:
    mesh = mtf.Mesh(*where)
    model: Any = _ensemble(mesh, _encoder_decoder())
    assert_steps_equal_whole_rows(model, mesh, beams)


@functools.cache
def _beams(mesh_shape: str, layout: str, at_once: bool) -> Any:
    mesh = mtf.Mesh(mesh_shape, layout)
    model = _ensemble(mesh, _language_model())

    def run(features: dict[str, mtf.Tensor]) -> decoding.Hypotheses:
        def decoder_for(beam: mtf.Dimension | None) -> decoding.Decoder:
            decoder = model.decoder(features, beam)
            return decoder if at_once else decoder.step_by_step()

        targets = features["targets"]
        lines = mtf.range(mesh, targets.shape[0])
        return decoding.Search(beam_size=2)(decoder_for, targets, model.vocab, lines=lines)

    prompts = packed_rows()["targets"] * (np.arange(12) < 4)
    return mtf.to_numpy(mtf.function(run)(on_mesh(mesh, {"targets": prompts})))


@pytest.mark.slow
@pytest.mark.parametrize("where", [(ONE_DEVICE, ""), (TWO_BY_TWO, LAYOUTS[0])])
def test_prompts_are_read_at_once_as_step_by_step(where: tuple[str, str]) -> None:
    expected, actual = _beams(ONE_DEVICE, "", False), _beams(*where, True)
    np.testing.assert_array_equal(actual.ids, expected.ids)
    assert_close(actual.scores, expected.scores, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_of_training_are_the_same_on_a_mesh(layout: str) -> None:
    def history(mesh_shape: str, layout: str) -> Any:
        mesh = mtf.Mesh(mesh_shape, layout)
        model = _ensemble(mesh, _language_model())
        state = TrainState(model, optim.Adafactor(), mesh)
        state.initialize()
        features = {
            name: mtf.import_tf_tensor(mesh, np.stack([x] * 3), "steps:3;batch:8;length:12")
            for name, x in packed_rows().items()
        }
        steps = mtf.constant(mesh, 3, dtype=np.int32)
        return mtf.to_numpy(train_steps_function(state)(features, steps)).objective

    expected, actual = history(ONE_DEVICE, ""), history(TWO_BY_TWO, layout)
    assert_close(actual.total, expected.total, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_language_model([functools.partial(moe.MoE1D, num_experts=2)]), "losses or metrics"),
        (
            _language_model(embedding=t.TokenEmbedding(softmax=zoo.MixtureOfSoftmaxes)),
            "MixtureOfSoftmaxes is not supported",
        ),
    ],
)
def test_models_without_members_are_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.make_ensemble(mtf.Mesh(ONE_DEVICE), model=model, vocabulary_size=VOCABULARY)
