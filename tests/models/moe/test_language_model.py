"""A language model of mixtures: losses, metrics, microbatches, types, decoding."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest

from mtfrun import decoding, mtf, optim
from mtfrun.data import split_batch
from mtfrun.models import moe
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.options import StepOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import LAYOUT
from tests.models.small_model import (
    VOCABULARY,
    hypotheses_of,
    logits_of,
    logits_step_by_step,
    on_mesh,
    packed_rows,
)

# Heads and an outer batch cannot be split over one axis.
OUTER_BATCH_LAYOUT = "batch:data;expert_x:data;experts:data;outer_batch:model;expert_y:model"
BFLOAT16_LOSS_TOLERANCE = 2e-2
EXPERTS = functools.partial(moe.Experts, hidden_size=8)
ONE_LEVEL = functools.partial(
    moe.MoE1D, num_experts=4, experts=EXPERTS, capacity=moe.Capacity(group_size=24)
)
TWO_LEVELS = functools.partial(
    moe.MoE2D, num_experts=(2, 2), experts=EXPERTS, capacity=moe.Capacity(group_size=12)
)
DROPLESS = functools.partial(moe.DroplessMoE, num_experts=4, experts=EXPERTS)
MIXTURES = {"one level": ONE_LEVEL, "two levels": TWO_LEVELS, "dropless": DROPLESS}


def _model(
    mesh: mtf.Mesh,
    mixture: str,
    rematerialise: bool = False,
    dtype: str = "float32",
    prefix: bool = False,
    num_layers: int = 1,
    **options: Any,
) -> DecoderOnly:
    layer = functools.partial(MIXTURES[mixture], **options)
    attention = functools.partial(SelfAttention, heads=AttentionHeads(4, d_kv=4), dropout_rate=0.1)
    stack = functools.partial(
        Stack, num_layers=num_layers, layers=[attention, layer], rematerialise=rematerialise
    )
    policy = mtf.DTypePolicy(activation=dtype)
    embedding = TokenEmbedding(d_model=16, max_length=16)
    model = DecoderOnly(
        mesh, VOCABULARY, embedding=embedding, stack=stack, prefix=prefix, dtypes=policy
    )
    mtf.initialize(model, seed=2)
    return model


class Run(NamedTuple):
    """How two steps are computed."""

    mesh_shape: str = ONE_DEVICE
    rematerialise: bool = False
    microbatches: int = 1
    outer_batch: int = 1
    dtype: str = "float32"


@functools.cache
def _history(mixture: str, run: Run) -> dict[str, np.ndarray]:
    """Returns the totals of two steps' metrics, and the variables afterwards."""
    mesh = mtf.Mesh(run.mesh_shape, LAYOUT if run.outer_batch == 1 else OUTER_BATCH_LAYOUT)
    model = _model(mesh, mixture, run.rematerialise, run.dtype)
    state = TrainState(model, optim.Sgd(learning_rate=0.1), mesh, seed=1)
    state.initialize()
    shape = mtf.Shape(["batch:8", "length:12"])
    if run.outer_batch > 1:
        shape = split_batch(shape, run.outer_batch)
    shape = mtf.Shape(["steps:2"]) + shape
    features = {
        name: mtf.import_tf_tensor(mesh, np.stack([x] * 2).reshape(shape.to_integer_list), shape)
        for name, x in packed_rows().items()
    }
    steps = mtf.constant(mesh, 2, dtype=np.int32)
    train = train_steps_function(state, StepOptions(microbatches=run.microbatches))
    record = mtf.to_numpy(train(features, steps))
    totals = {name: metric.total for name, metric in record.metrics.items()}
    variables = {f"after {path}": mtf.to_numpy(v) for path, v in model.named_variables().items()}
    norm = {"objective": record.objective.total, "norm": record.gradient_norm}
    return {**totals, **norm, **variables}


@pytest.mark.slow
@pytest.mark.parametrize(
    "mixture, run",
    [
        ("one level", Run("data:2,model:2", rematerialise=True)),
        ("one level", Run("data:2,model:1", microbatches=2)),
        ("one level", Run("data:2,model:2", outer_batch=2)),
        ("two levels", Run(ONE_DEVICE, microbatches=2, outer_batch=2)),
        ("two levels", Run("data:2,model:2", rematerialise=True, outer_batch=2)),
        ("two levels", Run("data:2,model:2", microbatches=2)),
        ("dropless", Run("data:2,model:2", rematerialise=True, microbatches=2)),
    ],
)
def test_training_is_the_same_everywhere(mixture: str, run: Run) -> None:
    expected = _history(mixture, Run(microbatches=run.microbatches))
    actual = _history(mixture, run)
    assert actual.keys() == expected.keys()
    for name, total in expected.items():
        assert_close(actual[name], total, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("mixture", MIXTURES)
def test_bfloat16_stays_near_float32(mixture: str) -> None:
    exact, rounded = _history(mixture, Run()), _history(mixture, Run(dtype="bfloat16"))
    assert_close(rounded["loss"], exact["loss"], BFLOAT16_LOSS_TOLERANCE)
    assert np.any(rounded["loss"] != exact["loss"])


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_losses_of_the_mixtures_are_trained_on_and_not_reported_as_loss(mixture: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    features = on_mesh(mesh, packed_rows())
    plain, weighted = (
        mtf.to_numpy(
            _model(mesh, mixture, num_layers=2, loss_coef=coef).loss(features, training=False)
        )
        for coef in (0.0, 0.5)
    )
    assert_close(weighted.metrics["loss"].total, plain.metrics["loss"].total)
    assert_close(plain.total, plain.metrics["loss"].total)
    balance = sum(
        metric.total for name, metric in plain.metrics.items() if name.endswith("/balance_loss")
    )
    expected = plain.total + 0.5 * balance * plain.weight
    assert_close(weighted.total, np.float32(expected), FLOAT32_MODEL_TOLERANCE)


def test_metrics_are_known_before_the_first_call() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh, "two levels", num_layers=2)
    metrics = model.loss(on_mesh(mesh, packed_rows()), training=False).metrics
    prefix = "decoder_stack/blocks/1/moe_2d/layer/"
    assert metrics[prefix + "level_2/load"].total.shape.size == 4
    shapes = {name: metric.total.shape for name, metric in metrics.items()}
    assert shapes == model.metric_shapes
    assert metrics["loss"].total.shape == mtf.Shape()


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
@pytest.mark.parametrize("mixture", MIXTURES)
def test_steps_of_decoding_equal_the_whole_row_where_nothing_is_dropped(
    mixture: str, mesh_shape: str
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    large = moe.Capacity(evaluation=8.0, second_level=8.0, group_size=8)
    options: dict[str, Any] = {} if mixture == "dropless" else {"capacity": large}
    model = _model(mesh, mixture, **options)
    targets = packed_rows()["targets"][:, :4]
    whole = logits_of(model, mesh, {"targets": targets})
    logits = logits_step_by_step(model, mesh, {}, targets)
    assert_close(logits, whole, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("mixture", ["one level", "two levels"])
def test_beams_of_a_prefix_language_model_do_not_depend_on_other_rows(mixture: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model, search = _model(mesh, mixture, prefix=True), decoding.Search(beam_size=2)
    prompts = packed_rows()["targets"][:, :6]
    prompts *= np.arange(6) < 2 + np.arange(8)[:, np.newaxis] % 3

    together, *alone = (
        hypotheses_of(model, mesh, search, x) for x in (prompts, prompts[:1], prompts[5:6])
    )
    for row, hypotheses in zip((0, 5), alone, strict=True):
        np.testing.assert_array_equal(together.ids[row], hypotheses.ids[0])
        assert_close(together.scores[row], hypotheses.scores[0], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_a_mesh_that_does_not_divide_the_groups_is_refused_with_a_remedy() -> None:
    mesh = mtf.Mesh("data:4,model:1", LAYOUT)
    model = _model(mesh, "one level", capacity=moe.Capacity(group_size=1024))
    with pytest.raises(mtf.LayoutError, match=r"must divide 1 group.*Capacity\.group_size.*to 24"):
        model.logits(on_mesh(mesh, packed_rows()))


def test_random_policies_are_refused_where_nothing_is_drawn() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    gate = moe.Top2(second_policy_evaluation=moe.Random())
    model = _model(mesh, "one level", router=functools.partial(moe.Router, gate=gate))
    with pytest.raises(ValueError, match="Random needs random numbers"):
        model.logits(on_mesh(mesh, packed_rows()))
