"""Mixtures of experts in the encoder and in the decoder of an encoder-decoder."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from mtfrun import data, evaluation, mtf, optim
from mtfrun.models import moe
from mtfrun.models.transformer import (
    AttentionHeads,
    EncoderDecoder,
    EncoderDecoderAttention,
    SelfAttention,
    Stack,
)
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import LAYOUT
from tests.models.small_model import (
    BATCH,
    VOCABULARY,
    assert_steps_equal_whole_rows,
    on_mesh,
    packed_pairs,
    pairs,
    small_encoder_decoder,
)

STEPS = 6
# A second level of few tokens needs room; where it has, nothing depends on who else is there.
CAPACITY = moe.Capacity(evaluation=8.0, second_level=8.0, group_size=12)
OPTIONS: dict[str, Any] = {
    "experts": functools.partial(moe.Experts, hidden_size=8),
    "capacity": CAPACITY,
}
ONE_LEVEL = functools.partial(moe.MoE1D, num_experts=4, **OPTIONS)
TWO_LEVELS = functools.partial(moe.MoE2D, num_experts=(2, 2), **OPTIONS)


def _model(mesh: mtf.Mesh) -> EncoderDecoder:
    """Returns a model with one level in the encoder and two in the decoder."""
    attention = functools.partial(SelfAttention, heads=AttentionHeads(4, d_kv=4))
    to_encoder = functools.partial(EncoderDecoderAttention, heads=AttentionHeads(4, d_kv=4))
    return small_encoder_decoder(
        mesh,
        encoder=functools.partial(Stack, num_layers=1, layers=[attention, ONE_LEVEL]),
        decoder=functools.partial(Stack, num_layers=1, layers=[attention, to_encoder, TWO_LEVELS]),
    )


@functools.cache
def _trained(mesh_shape: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Returns the totals of the metrics of some steps, and an evaluation afterwards."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    state = TrainState(_model(mesh), optim.Adam(learning_rate=0.02), mesh)
    state.initialize()
    rows = packed_pairs()
    lengths = {name: x.shape[1] for name, x in rows.items()}
    features = {
        name: mtf.import_tf_tensor(
            mesh, np.stack([x] * STEPS), f"steps:{STEPS};batch:{BATCH};length:{lengths[name]}"
        )
        for name, x in rows.items()
    }
    record = mtf.to_numpy(
        train_steps_function(state)(features, mtf.constant(mesh, STEPS, dtype=np.int32))
    )
    shapes = {name: mtf.convert_to_shape(f"batch:{BATCH};length:{lengths[name]}") for name in rows}
    infeed = data.Infeed(iter([pairs()]), mesh, shapes, with_shorter_rows=True)
    values = evaluation.ModelMetrics(state.model, mesh)(infeed)
    return {name: metric.total for name, metric in record.metrics.items()}, values


@pytest.mark.slow
def test_training_lowers_the_loss_and_evaluation_measures_both_mixtures() -> None:
    history, values = _trained(ONE_DEVICE)
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert 0.0 < values["loss"] < 2.0 * np.log(VOCABULARY)
    one, two = (
        "encoder_stack/blocks/0/moe_1d/layer/level_1",
        "decoder_stack/blocks/0/moe_2d/layer/level_2",
    )
    for prefix in (one, two):
        assert np.isclose(sum(values[f"{prefix}/load/{i}"] for i in range(4)), 1.0)
        assert values[f"{prefix}/entropy"] > 0.0


@pytest.mark.slow
def test_the_loss_is_the_same_on_a_mesh() -> None:
    def loss(mesh_shape: str) -> Any:
        mesh = mtf.Mesh(mesh_shape, LAYOUT)
        model = _model(mesh)
        run = mtf.function(lambda f: model.loss(f, training=True, key=mtf.random_key(0)))
        return mtf.to_numpy(run(on_mesh(mesh, packed_pairs())))

    actual, expected = loss("data:2,model:2"), loss(ONE_DEVICE)
    assert_close(actual.total, expected.total, FLOAT32_MODEL_TOLERANCE)
    assert actual.metrics.keys() == expected.metrics.keys()
    for name, metric in expected.metrics.items():
        assert_close(actual.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_training_and_evaluation_are_the_same_on_a_mesh() -> None:
    results: list[Any] = list(zip(_trained("data:2,model:2"), _trained(ONE_DEVICE), strict=True))
    for actual, expected in results:
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(actual[name], np.float32(value), FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("beams", [None, 3])
def test_steps_of_decoding_equal_the_whole_rows(mesh_shape: str, beams: int | None) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    assert_steps_equal_whole_rows(_model(mesh), mesh, beams)
