"""Numbers of texts: the same loss under every layout, and the nearest number decoded."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models import transformer as t
from tests.layouts import ONE_DEVICE, assert_close
from tests.models.under_layouts import Step, assert_same_step, training_step

BATCH, LENGTH, VOCABULARY = 4, 8, 50
NUMBERS = np.linspace(-4.0, 4.0, 81)
# Ids of numbers; the third row has no loss.
IDS = (80, 3, -1, 0)


def _model(mesh: mtf.Mesh) -> t.TextRegressor:
    heads = t.AttentionHeads(num_heads=2, d_kv=4)
    layers = [
        functools.partial(t.SelfAttention, heads=heads, dropout_rate=0.1),
        functools.partial(t.FeedForward, d_ff=8, dropout_rate=0.1),
    ]
    model = t.TextRegressor(
        *(mesh, VOCABULARY, NUMBERS),
        embedding=t.TokenEmbedding(d_model=8, vocabulary_divisor=8, max_length=LENGTH),
        stack=functools.partial(t.Stack, num_layers=1, layers=layers),
        num_types=2,
    )
    mtf.initialize(model, seed=3)
    return model


def _on_mesh(mesh: mtf.Mesh) -> dict[str, mtf.Tensor]:
    rng = np.random.default_rng(0)
    targets = np.full([BATCH, LENGTH], -1)
    targets[:, 0] = IDS
    features = {
        "inputs": rng.integers(2, VOCABULARY, [BATCH, LENGTH]),
        "inputs_types": rng.integers(0, 2, [BATCH, LENGTH]),
        "targets": targets,
    }
    shape = f"batch:{BATCH};length:{LENGTH}"
    return {
        name: mtf.import_tf_tensor(mesh, values.astype(np.int32), shape)
        for name, values in features.items()
    }


@functools.cache
def _step(mesh_shape: str, layout: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    return training_step(_model(mesh), mesh, {}, _on_mesh(mesh))


@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        pytest.param(
            *("data:2,model:2", "batch:data;heads:model;d_ff:model;vocab:model"),
            marks=pytest.mark.slow,
        ),
        pytest.param("data:4,model:1", "batch:data", marks=pytest.mark.slow),
        pytest.param("data:1,model:2", "d_model:model", marks=pytest.mark.slow),
    ],
)
def test_a_layout_changes_neither_loss_nor_gradients(mesh_shape: str, layout: str) -> None:
    assert_same_step(_step(mesh_shape, layout), _step(ONE_DEVICE, ""))


def test_the_loss_is_the_squared_error_of_rows_with_a_number() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh)
    metrics = mtf.function(lambda x: model.loss(x, training=False).metrics)(_on_mesh(mesh))
    predictions = mtf.to_numpy(mtf.function(model.logits)(_on_mesh(mesh)))[:, 0, 0]
    ids = np.array(IDS)
    squares = (predictions - NUMBERS[ids]) ** 2
    assert_close(mtf.to_numpy(metrics["loss"].total), squares[ids >= 0].sum())
    assert mtf.to_numpy(metrics["loss"].weight) == 3


@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        (ONE_DEVICE, ""),
        pytest.param("data:2,model:2", "batch:data;vocab:model", marks=pytest.mark.slow),
    ],
)
def test_a_decoder_has_the_nearest_number(mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    model = _model(mesh)

    def decode(features: dict[str, mtf.Tensor]) -> mtf.Tensor:
        step = model.decoder(features).step
        ids = mtf.zeros(mesh, f"batch:{BATCH}", "int32")
        return mtf.log_softmax(step(ids, mtf.constant(mesh, 0, dtype="int32"), ())[0], model.vocab)

    log_probs = mtf.to_numpy(mtf.function(decode)(_on_mesh(mesh)))
    predictions = mtf.to_numpy(mtf.function(model.logits)(_on_mesh(mesh)))[:, 0, 0]
    expected = np.abs(predictions[:, None] - NUMBERS).argmin(-1)
    np.testing.assert_array_equal(log_probs.argmax(-1), expected)
    assert_close(log_probs.max(-1), np.zeros([BATCH]))
    assert len(set(expected.tolist())) > 1


def test_several_numbers_are_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(InputError, match="has one answer"):
        _model(mesh).decoder(_on_mesh(mesh), mtf.Dimension("beam", 2))


def test_targets_are_not_scored() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(InputError, match="TextRegressor scores no targets: `mtfrun decode` prints"):
        _model(mesh).target_nats(_on_mesh(mesh))
