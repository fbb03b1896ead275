"""Trainings of the original continue as they did there: losses, weights and slots.

Every folder of old_runs/ has the checkpoints before and after three steps. The models are those of
its operative_config.gin, written by hand.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf, optim
from mtfrun.checkpoints.names import sources_of
from mtfrun.models import moe
from mtfrun.models import transformer as t
from mtfrun.models.transformer.tokens.token_model import TokenModel
from mtfrun.rundir.init_checkpoint import InitCheckpoint, find_source, fit_value
from mtfrun.training import TrainState
from mtfrun.training.step import train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.oracle.reference_cases import FOLDER

# What makes a layer or a model on a mesh.
Factory = Callable[..., Any]

NUM_STEPS = 3
BATCH_SIZE = 4

HEADS = layers.AttentionHeads(num_heads=4, d_kv=8)
SELF_ATTENTION = functools.partial(t.SelfAttention, heads=HEADS)
TO_ENCODER = functools.partial(t.EncoderDecoderAttention, heads=HEADS)
FEED_FORWARD = functools.partial(t.FeedForward, d_ff=48)
GATED = functools.partial(t.GatedFeedForward, d_ff=48)
SWITCH = functools.partial(
    moe.MoE1D,
    num_experts=4,
    router=functools.partial(moe.Router, gate=moe.Switch()),
    experts=functools.partial(moe.Experts, hidden_size=24),
    capacity=moe.Capacity(group_size=64, training=1.25, evaluation=2.0, min_expert_capacity=4),
    loss_coef=0.01,
)
# The vocabulary of 100 is padded to 128, all of which are in the original's softmax.
VOCABULARY_SIZE = 128
LOSS = t.TokenLoss(z_loss=1e-4, mean_over_padding=True)


def _encoder_decoder(
    encoder: Factory, decoder: Factory, *, tied_softmax: bool, loss: t.TokenLoss = LOSS
) -> Factory:
    """Returns a factory of encoder-decoders of two blocks with these feed-forward layers."""
    stack = functools.partial(
        t.Stack,
        num_layers=2,
        # Padding is 0 before every layer, and counts in the load of experts.
        transforms=t.StackTransforms(layer=[t.RMSNorm, t.MaskPadding, t.CallLayer, t.Residual]),
        relative_bias=functools.partial(
            t.RelativePositionBias, num_heads=4, num_buckets=32, max_distance=128
        ),
    )
    return functools.partial(
        t.EncoderDecoder,
        encoder=functools.partial(stack, layers=[SELF_ATTENTION, encoder]),
        decoder=functools.partial(stack, layers=[SELF_ATTENTION, TO_ENCODER, decoder]),
        vocabulary_size=VOCABULARY_SIZE,
        embedding=t.TokenEmbedding(d_model=32, position=None, tied_softmax=tied_softmax),
        loss=loss,
    )


def _adafactor(min_dim_size_to_factor: int = 128) -> optim.Adafactor:
    return optim.Adafactor(optim.TruncatedRsqrt(10), min_dim_size_to_factor=min_dim_size_to_factor)


RUNS: dict[str, tuple[Factory, Callable[[], optim.SlotOptimizer]]] = {
    "bi_gated": (_encoder_decoder(GATED, GATED, tied_softmax=False), _adafactor),
    "bi_factored": (
        _encoder_decoder(GATED, GATED, tied_softmax=False),
        lambda: _adafactor(min_dim_size_to_factor=16),
    ),
    "bi_relu_tied": (
        _encoder_decoder(
            FEED_FORWARD,
            FEED_FORWARD,
            tied_softmax=True,
            loss=dataclasses.replace(LOSS, label_smoothing=0.1),
        ),
        lambda: optim.Adam(
            optim.noam(NUM_STEPS, warmup_steps=10_000), epsilon=1e-6, bias_correction=False
        ),
    ),
    "bi_moe_switch": (_encoder_decoder(SWITCH, GATED, tied_softmax=False), _adafactor),
    "lm": (
        functools.partial(
            t.DecoderOnly,
            stack=functools.partial(t.Stack, num_layers=2, layers=[SELF_ATTENTION, FEED_FORWARD]),
            vocabulary_size=VOCABULARY_SIZE,
            embedding=t.TokenEmbedding(d_model=32, max_length=32),
            loss=LOSS,
        ),
        _adafactor,
    ),
}


def _mesh(name: str, several: bool) -> mtf.Mesh:
    if not several:
        return mtf.Mesh(ONE_DEVICE)
    # A batch of the mixture is one group of tokens, which cannot be split.
    rows = "experts:data" if name == "bi_moe_switch" else "batch:data"
    return mtf.Mesh("data:2,model:2", f"{rows};heads:model;d_ff:model;vocab:model")


def _stored_slots(
    checkpoint: tf.train.CheckpointReader, model: TokenModel, optimizer: optim.Optimizer
) -> dict[str, np.ndarray]:
    """Returns the values of all slots in one of the original's checkpoints, in our shapes."""
    assert isinstance(optimizer, optim.SlotOptimizer)
    names = list(checkpoint.get_variable_to_shape_map())
    paths = model.named_variables()
    values = {}
    for path, slots in optimizer.slots.items():
        match = find_source(sources_of(path, paths), names)
        assert match is not None, path
        variable, source = match
        for slot_name, slot in slots.items():
            candidates = f"{variable}_slot_{slot_name}", f"{variable}/adam_{slot_name}"
            (name,) = (candidate for candidate in candidates if candidate in names)
            value = fit_value(checkpoint.get_tensor(name), source, slot.shape)
            assert isinstance(value, np.ndarray), f"{name} is {value}"
            values[f"{path}/{slot_name}"] = value
    return values


def _state_of_step_0(name: str, mesh: mtf.Mesh) -> TrainState:
    """Returns the state of the original before its first step."""
    make_model, make_optimizer = RUNS[name]
    state = TrainState(make_model(mesh), make_optimizer(), mesh)
    state.initialize()
    path = str(FOLDER / "old_runs" / name / "model.ckpt-0")
    report = InitCheckpoint(path)(state.model.named_variables())
    assert report is not None
    assert not report.problems()
    checkpoint = tf.train.load_checkpoint(path)
    slots = state.optimizer.named_slots()
    for slot_path, value in _stored_slots(checkpoint, state.model, state.optimizer).items():
        slot = slots.pop(slot_path)
        mtf.assign(slot, mtf.import_tf_tensor(mesh, value, slot.shape))
    assert not slots
    step = checkpoint.get_tensor("global_step")
    mtf.assign(state.step, mtf.import_tf_tensor(mesh, step, []))
    return state


def _batches(name: str, mesh: mtf.Mesh) -> dict[str, mtf.Tensor]:
    """Returns the rows of the steps {steps, batch, length}."""
    with np.load(FOLDER / "old_runs" / name / "rows.npz") as rows:
        stored = {feature: rows[feature][: NUM_STEPS * BATCH_SIZE] for feature in rows}
    return {
        feature: mtf.import_tf_tensor(
            mesh,
            x.reshape(NUM_STEPS, BATCH_SIZE, -1),
            [("steps", NUM_STEPS), ("batch", BATCH_SIZE), ("length", x.shape[1])],
        )
        for feature, x in stored.items()
    }


@pytest.mark.parametrize(
    "several", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one device", "several"]
)
@pytest.mark.parametrize(
    "name",
    # The factored run is of the same model.
    [pytest.param(name, marks=[pytest.mark.slow] if name == "bi_gated" else []) for name in RUNS],
)
def test_a_training_of_the_original_continues(name: str, several: bool) -> None:
    folder = FOLDER / "old_runs" / name
    mesh = _mesh(name, several)
    state = _state_of_step_0(name, mesh)
    record = train_steps_function(state)(
        _batches(name, mesh), mtf.constant(mesh, NUM_STEPS, dtype=tf.int32)
    )
    objective = mtf.to_numpy(record.objective)
    losses = json.loads((folder / "result.json").read_text())["train_losses"]
    assert_close(objective.total / objective.weight, losses, FLOAT32_MODEL_TOLERANCE)

    assert state.finished_steps == NUM_STEPS
    checkpoint = tf.train.load_checkpoint(str(folder / f"model.ckpt-{NUM_STEPS}"))
    names = list(checkpoint.get_variable_to_shape_map())
    variables = state.model.named_variables()
    for path, variable in variables.items():
        match = find_source(sources_of(path, variables), names)
        assert match is not None, path
        original, source = match
        expected = fit_value(checkpoint.get_tensor(original), source, variable.shape)
        assert_close(mtf.to_numpy(variable), expected, FLOAT32_MODEL_TOLERANCE)
    slots = state.optimizer.named_slots()
    for path, expected in _stored_slots(checkpoint, state.model, state.optimizer).items():
        assert_close(mtf.to_numpy(slots[path]), expected, FLOAT32_MODEL_TOLERANCE)
