"""Adaptive computation time against the formulas for one position, and signals of steps."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import VOCABULARY, on_mesh, packed_rows

NUM_STEPS, EPSILON = 4, 0.1


def _mixture(
    x: np.ndarray, unit: np.ndarray, *, accumulated: bool
) -> tuple[np.ndarray, int, float]:
    """Returns the mixture of steps that add 1 to x, their number, and the remainder."""
    mixed, total = np.zeros_like(x), 0.0
    for step in range(NUM_STEPS):
        p = 1.0 / (1.0 + np.exp(-(x @ unit)))
        is_last = total + p > 1.0 - EPSILON
        weight = 1.0 - total if is_last else p
        x = x + 1.0
        mixed = mixed * (1.0 if accumulated else 1.0 - weight) + weight * x
        if is_last:
            return mixed, step + 1, weight
        total += p
    return mixed, NUM_STEPS, 0.0


@pytest.mark.parametrize("combination", ["interpolated", "accumulated"])
def test_a_position_halts_as_by_the_formulas(combination: str) -> None:
    mesh, width = mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_model", 8)
    x = np.random.default_rng(0).normal(size=[2, 6, 8]).astype(np.float32)
    unit = np.random.default_rng(1).normal(size=[8]).astype(np.float32) - 0.2
    halting = t.Halting(mesh, width, epsilon=EPSILON, combination=combination, loss_weight=0.5)
    mtf.initialize(halting)
    halting.unit.kernel.variable.assign(unit[:, np.newaxis])
    tokens = np.asarray([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], np.float32)
    dims = ["batch:2", "length:6"]
    collector = layers.Collector()
    call = t.SequenceCall(collector=collector, nonpadding=mtf.import_tf_tensor(mesh, tokens, dims))
    vectors = mtf.import_tf_tensor(mesh, x, [*dims, width])
    y = halting(vectors, NUM_STEPS, lambda _, x: x, lambda _, x: x + 1.0, call)
    rows = [
        _mixture(row, unit, accumulated=combination == "accumulated") for row in x.reshape(-1, 8)
    ]
    mixed, number, remainder = (np.asarray(part, np.float32) for part in zip(*rows, strict=True))
    assert set(number) >= {1, 2, NUM_STEPS}
    assert_close(mtf.to_numpy(y), mixed.reshape(x.shape), FLOAT32_MODEL_TOLERANCE)
    of_layer = mtf.to_numpy(collector.contents)
    steps, cost = (float(v @ tokens.ravel()) for v in (number, number + remainder))
    path = halting.path
    assert_close(of_layer.metrics[f"{path}/ponder_steps"].total, np.float32(steps))
    assert_close(of_layer.metrics[f"{path}/ponder_cost"].total, np.float32(cost))
    assert_close(of_layer.losses[path], np.float32(0.5 * cost / tokens.sum()))


def test_signals_are_of_positions_in_the_texts_of_packed_rows() -> None:
    mesh, rows = mtf.Mesh(ONE_DEVICE), packed_rows()
    recurrence = t.Recurrence(num_steps=2)
    attention = functools.partial(t.SelfAttention, heads=t.AttentionHeads(4, d_kv=4))
    model = t.DecoderOnly(
        mesh,
        VOCABULARY,
        embedding=t.TokenEmbedding(16, position=None),
        stack=functools.partial(t.UniversalStack, recurrence=recurrence, layers=[attention]),
    )
    mtf.initialize(model, seed=2)
    packed = mtf.to_numpy(model.logits(on_mesh(mesh, rows)))
    for begin, end in ((0, 5), (5, 9)):
        alone = model.logits(on_mesh(mesh, {"targets": rows["targets"][:, begin:end]}))
        assert_close(packed[:, begin:end], mtf.to_numpy(alone), FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: t.Recurrence(num_steps=0),
        lambda: t.Halting(mtf.Mesh(), mtf.Dimension("d_model", 8), epsilon=1.0),
        lambda: t.Halting(mtf.Mesh(), mtf.Dimension("d_model", 8), combination="mean"),
        lambda: t.StepSignals(mtf.Mesh(), mtf.Dimension("d_model", 8), 2, steps="random"),
    ],
)
def test_wrong_settings_are_errors(make: functools.partial[object]) -> None:
    with pytest.raises(InputError, match=r"(Recurrence|Halting|StepSignals)\.\w+ is"):
        make()
