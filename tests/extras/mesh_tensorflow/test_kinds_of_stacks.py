"""Stacks in the place of `Stack`: their training under layouts, and their steps of decoding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import decoding, mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow import parity, zoo
from mtfrun.models import moe
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    Step,
    assert_same_step,
    logits_step_by_step,
    on_mesh,
    packed_pairs,
    pairs,
    training_step,
    with_dropout,
)

HEADS = t.AttentionHeads(num_heads=4, d_kv=4)
DROPOUT = functools.partial(t.SublayerDropout, rate=0.2)
RELATIVE = functools.partial(t.RelativePositionBias, num_heads=4, num_buckets=8, max_distance=6)
FEED_FORWARD = functools.partial(t.FeedForward, d_ff=32, dropout_rate=0.2)
EXPERTS = functools.partial(
    moe.DroplessMoE, num_experts=4, experts=functools.partial(moe.Experts, hidden_size=8)
)
WITHOUT_RESIDUAL = t.StackTransforms(
    initial=[DROPOUT], layer=[t.RMSNorm, t.CallLayer, DROPOUT], final=[t.RMSNorm, DROPOUT]
)
REVERSIBLE: dict[str, Any] = {
    "num_layers": 2,
    "transforms": WITHOUT_RESIDUAL,
    "relative_bias": RELATIVE,
}
TRAINED_SIGNALS = functools.partial(
    zoo.StepSignals, steps="trained", positions=False, num_trained=2
)
UNIVERSAL: dict[str, Any] = {"transforms": with_dropout(0.2), "relative_bias": RELATIVE}
HALTING = zoo.Recurrence(num_steps=3, halting=functools.partial(zoo.Halting, loss_weight=0.1))
KINDS: dict[str, Callable[..., t.Stack]] = {
    "reversible": functools.partial(zoo.ReversibleStack, **REVERSIBLE),
    "universal, trained signals, two blocks": functools.partial(
        zoo.UniversalStack,
        recurrence=zoo.Recurrence(num_steps=3, signals=TRAINED_SIGNALS),
        num_layers=2,
        **UNIVERSAL,
    ),
    "shared layers": functools.partial(parity.SharedLayersStack, num_layers=3, **UNIVERSAL),
    "universal, halting": functools.partial(zoo.UniversalStack, recurrence=HALTING, **UNIVERSAL),
    "universal, halting, accumulated": functools.partial(
        zoo.UniversalStack,
        recurrence=zoo.Recurrence(
            num_steps=3,
            halting=functools.partial(zoo.Halting, combination="accumulated", epsilon=0.2),
        ),
        rematerialise=True,
        **UNIVERSAL,
    ),
}
QUICK = ("reversible",)


class StoredReversibleStack(zoo.ReversibleStack):
    """The same computation, whose backward pass has everything stored."""

    def _run_blocks(self, x: mtf.Tensor, call: t.SequenceCall) -> list[mtf.Tensor]:
        x1 = x2 = x
        for layer in (layer for block in self.blocks for layer in block.values()):
            x1, x2 = x2, x1 + layer(x2, call)
        return [x1 + x2]


def _model(
    kind: Callable[..., t.Stack], mesh: mtf.Mesh, mixture: Any = FEED_FORWARD
) -> t.EncoderDecoder:
    attention = functools.partial(t.SelfAttention, heads=HEADS, dropout_rate=0.2)
    to_encoder = functools.partial(t.EncoderDecoderAttention, heads=HEADS, dropout_rate=0.2)
    model = t.EncoderDecoder(
        mesh,
        VOCABULARY,
        embedding=t.TokenEmbedding(16, max_length=16, position=None),
        encoder=functools.partial(kind, layers=[attention, FEED_FORWARD]),
        decoder=functools.partial(kind, layers=[attention, to_encoder, mixture]),
    )
    mtf.initialize(model, seed=3)
    return model


@functools.cache
def _step(kind: str, mesh_shape: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, f"{LAYOUT};experts:data")
    return training_step(_model(KINDS[kind], mesh, EXPERTS), mesh, packed_pairs())


# The other kind that halts has more.
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "universal, halting"])
def test_a_layout_changes_neither_loss_nor_gradients(kind: str) -> None:
    assert_same_step(_step(kind, "data:2,model:2"), _step(kind, ONE_DEVICE))


def test_shared_layers_are_one_of_each_class_with_other_dropout_in_every_block() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack = parity.SharedLayersStack(
        *(mesh, mtf.Dimension("d_model", 16)),
        num_layers=2,
        layers=[functools.partial(t.FeedForward, d_ff=32, dropout_rate=0.5)] * 2,
        transforms=t.StackTransforms(initial=[], layer=[t.RMSNorm, t.CallLayer], final=[]),
    )
    mtf.initialize(stack, seed=3)
    assert [*stack.named_variables()] == [
        "blocks/0/feed_forward_0/norm/scale",
        "blocks/0/feed_forward_0/layer/wi/kernel",
        "blocks/0/feed_forward_0/layer/wo/kernel",
    ]
    x = mtf.ones(mesh, [mtf.Dimension("length", 3), mtf.Dimension("d_model", 16)])
    call = t.SequenceCall(training=True, key=mtf.random_key(0))
    block = stack.blocks[0]["feed_forward_0"]
    first, second, again = (
        mtf.to_numpy(block(x, stack.block_call(number, call))) for number in (0, 1, 0)
    )
    assert_close(first, again, FLOAT32_MODEL_TOLERANCE)
    assert np.abs(first - second).max() > 0.01
    with pytest.raises(InputError, match=r"SharedLayersStack\.scan_blocks=1 is not supported"):
        parity.SharedLayersStack(mesh, mtf.Dimension("d_model", 16), scan_blocks=1)


@pytest.mark.slow
def test_recomputed_inputs_change_neither_gradients_nor_dropout_nor_losses() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stored = functools.partial(StoredReversibleStack, **REVERSIBLE)
    actual = _step("reversible", ONE_DEVICE)
    path = "decoder_stack/blocks/1/moe_1d/layer/experts_per_token"
    assert path in actual.loss.metrics
    assert_same_step(actual, training_step(_model(stored, mesh, EXPERTS), mesh, packed_pairs()))


def _rows() -> dict[str, np.ndarray]:
    """Returns unpadded targets, for padding is a token while decoding."""
    rows = pairs()
    return {**rows, "targets": np.where(rows["targets"] == 0, 5, rows["targets"])}


@pytest.mark.parametrize(
    "kind, mesh_shape",
    [
        pytest.param(
            kind, shape, marks=[] if kind in QUICK and shape == ONE_DEVICE else [pytest.mark.slow]
        )
        for kind in KINDS
        for shape in (ONE_DEVICE, "data:2,model:2")
    ],
)
def test_steps_give_the_logits_of_whole_rows(kind: str, mesh_shape: str) -> None:
    mesh, rows = mtf.Mesh(mesh_shape, LAYOUT), _rows()
    model = _model(KINDS[kind], mesh)
    expected = mtf.to_numpy(mtf.function(model.logits)(on_mesh(mesh, rows)))
    actual = logits_step_by_step(model, mesh, {"inputs": rows["inputs"]}, rows["targets"])
    assert_close(actual, expected, FLOAT32_MODEL_TOLERANCE)


def _continued(kind: str, mesh_shape: str, *, at_once: bool) -> np.ndarray:
    """Returns the likeliest ids after prompts of three to six ids."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    attention = functools.partial(t.SelfAttention, heads=HEADS)
    model = t.DecoderOnly(
        mesh,
        VOCABULARY,
        embedding=t.TokenEmbedding(16, max_length=16, tied_softmax=False),
        stack=functools.partial(KINDS[kind], layers=[attention, FEED_FORWARD]),
    )
    mtf.initialize(model, seed=4)

    def run(features: dict[str, mtf.Tensor], lines: mtf.Tensor) -> decoding.Hypotheses:
        def decoder_for(beam: mtf.Dimension | None) -> decoding.Decoder:
            decoder = model.decoder(features, beam)
            return decoder if at_once else decoder.step_by_step()

        prompts, search = features["targets"], decoding.Search()
        return search(decoder_for, prompts, model.vocab, lines=lines, longest_prompt=6)

    prompts = np.pad(pairs()["targets"], [(0, 0), (0, 6)])
    lines = mtf.import_tf_tensor(mesh, np.arange(8, dtype=np.int32), ["batch:8"])
    return mtf.to_numpy(mtf.function(run)(on_mesh(mesh, {"targets": prompts}), lines)).ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_are_read_at_once_are_continued_as_step_by_step(kind: str) -> None:
    expected = _continued(kind, ONE_DEVICE, at_once=False)
    np.testing.assert_array_equal(_continued(kind, "data:2,model:2", at_once=True), expected)


def test_a_reversible_stack_refuses_residuals() -> None:
    with pytest.raises(InputError, match=r"leave Residual out of StackTransforms\.layer"):
        zoo.ReversibleStack(
            mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_model", 8), transforms=t.StackTransforms()
        )
