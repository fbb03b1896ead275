"""Heads of encoders: spans and numbers."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras import text_tasks
from mtfrun.models import transformer as t
from tests.layouts import ONE_DEVICE, assert_close
from tests.models.small_model import Step, assert_same_step, training_step

BATCH, LENGTH, VOCABULARY, END = 4, 16, 200, 1
MAX_SPAN = 3
# The first id of the context, and the number of ids of a row, its end included.
CONTEXT, USED = 5, (16, 12, 9, 16)


def _model(mesh: mtf.Mesh) -> text_tasks.SpanLabeler:
    heads = t.AttentionHeads(num_heads=2, d_kv=4)
    layers = [
        functools.partial(t.SelfAttention, heads=heads, dropout_rate=0.1),
        functools.partial(t.FeedForward, d_ff=8, dropout_rate=0.1),
    ]
    model = text_tasks.SpanLabeler(
        *(mesh, VOCABULARY, END),
        embedding=t.TokenEmbedding(d_model=8, vocabulary_divisor=8, max_length=LENGTH),
        stack=functools.partial(t.Stack, num_layers=1, layers=layers),
        num_types=2,
        max_span=MAX_SPAN,
    )
    mtf.initialize(model, seed=2)
    return model


def _features() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    place = np.arange(LENGTH)
    used = place < np.array(USED)[:, None]
    inputs = np.where(used, rng.integers(3, VOCABULARY, [BATCH, LENGTH]), 0)
    inputs[np.arange(BATCH), np.array(USED) - 1] = END
    types = (used & (place >= CONTEXT)).astype(np.int32)
    targets = np.array([[6, 8], [5, 5], [-1, -1], [10, 14]])
    features = {"inputs": inputs, "inputs_types": types, "targets": targets}
    return {name: values.astype(np.int32) for name, values in features.items()}


def _on_mesh(mesh: mtf.Mesh) -> dict[str, mtf.Tensor]:
    return {
        name: mtf.import_tf_tensor(mesh, x, f"batch:{BATCH};length:{x.shape[1]}")
        for name, x in _features().items()
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


def _log_probabilities(mesh: mtf.Mesh, model: text_tasks.SpanLabeler) -> np.ndarray:
    """Returns [row, first or last, position]."""
    features = {name: x for name, x in _on_mesh(mesh).items() if name != "targets"}
    logits = mtf.to_numpy(mtf.function(model.logits)(features))[..., :2].astype(np.float64)
    logits = np.where(
        np.arange(LENGTH)[None, :, None] < np.array(USED)[:, None, None], logits, -1e9
    )
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    return logits.transpose(0, 2, 1)


def test_the_loss_is_the_mean_of_both_positions() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh)
    metrics = mtf.function(lambda x: model.loss(x, training=False).metrics)(_on_mesh(mesh))
    log_probabilities, targets = _log_probabilities(mesh, model), _features()["targets"]
    expected = [
        -log_probabilities[row, [0, 1], targets[row]].mean() for row in range(BATCH) if row != 2
    ]
    assert_close(mtf.to_numpy(metrics["loss"].total), np.sum(expected))
    assert mtf.to_numpy(metrics["loss"].weight) == 3
    # Rows without a target do not count; padding was not taken for a place.
    assert 0 <= mtf.to_numpy(metrics["accuracy"].total) <= 3


@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        (ONE_DEVICE, ""),
        pytest.param(
            "data:2,model:2", "batch:data;heads:model;vocab:model", marks=pytest.mark.slow
        ),
    ],
)
def test_a_decoder_copies_the_best_span_of_the_context(mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    model = _model(mesh)
    log_probabilities, inputs = _log_probabilities(mesh, model), _features()["inputs"]
    steps = MAX_SPAN + 1

    def decode(features: dict[str, mtf.Tensor]) -> list[mtf.Tensor]:
        step = model.decoder(features).step
        ids = mtf.zeros(mesh, f"batch:{BATCH}", "int32")
        return [
            mtf.log_softmax(step(ids, mtf.constant(mesh, i, dtype="int32"), ())[0], model.vocab)
            for i in range(steps)
        ]

    results = [mtf.to_numpy(x) for x in mtf.function(decode)(_on_mesh(mesh))]
    for row in range(BATCH):
        of_begin, of_end = log_probabilities[row]
        score, begin, end = max(
            (of_begin[begin] + of_end[end], begin, end)
            for begin in range(CONTEXT, USED[row] - 1)
            for end in range(begin, min(begin + MAX_SPAN, USED[row] - 1))
        )
        span = [*inputs[row, begin : end + 1], END]
        assert [int(x[row].argmax()) for x in results[: len(span)]] == span
        assert_close(results[0][row, span[0]], score)
        assert_close(np.exp([x[row].max() for x in results[1 : len(span)]]), np.ones(len(span) - 1))


def test_several_answers_are_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(InputError, match="has one answer"):
        _model(mesh).decoder(_on_mesh(mesh), mtf.Dimension("beam", 2))


REGRESSOR_BATCH, REGRESSOR_LENGTH, REGRESSOR_VOCABULARY = 4, 8, 50
NUMBERS = np.linspace(-4.0, 4.0, 81)
# Ids of numbers; the third row has no loss.
IDS = (80, 3, -1, 0)


def _regressor_model(mesh: mtf.Mesh) -> text_tasks.TextRegressor:
    heads = t.AttentionHeads(num_heads=2, d_kv=4)
    layers = [
        functools.partial(t.SelfAttention, heads=heads, dropout_rate=0.1),
        functools.partial(t.FeedForward, d_ff=8, dropout_rate=0.1),
    ]
    model = text_tasks.TextRegressor(
        *(mesh, REGRESSOR_VOCABULARY, NUMBERS),
        embedding=t.TokenEmbedding(d_model=8, vocabulary_divisor=8, max_length=REGRESSOR_LENGTH),
        stack=functools.partial(t.Stack, num_layers=1, layers=layers),
        num_types=2,
    )
    mtf.initialize(model, seed=3)
    return model


def _regressor_on_mesh(mesh: mtf.Mesh) -> dict[str, mtf.Tensor]:
    rng = np.random.default_rng(0)
    targets = np.full([REGRESSOR_BATCH, REGRESSOR_LENGTH], -1)
    targets[:, 0] = IDS
    features = {
        "inputs": rng.integers(2, REGRESSOR_VOCABULARY, [REGRESSOR_BATCH, REGRESSOR_LENGTH]),
        "inputs_types": rng.integers(0, 2, [REGRESSOR_BATCH, REGRESSOR_LENGTH]),
        "targets": targets,
    }
    shape = f"batch:{REGRESSOR_BATCH};length:{REGRESSOR_LENGTH}"
    return {
        name: mtf.import_tf_tensor(mesh, values.astype(np.int32), shape)
        for name, values in features.items()
    }


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
def test_a_layout_changes_neither_loss_nor_gradients_in_regressor(
    mesh_shape: str, layout: str
) -> None:
    assert_same_step(_step(mesh_shape, layout), _step(ONE_DEVICE, ""))


def test_the_loss_is_the_squared_error_of_rows_with_a_number() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _regressor_model(mesh)
    metrics = mtf.function(lambda x: model.loss(x, training=False).metrics)(
        _regressor_on_mesh(mesh)
    )
    predictions = mtf.to_numpy(mtf.function(model.logits)(_regressor_on_mesh(mesh)))[:, 0, 0]
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
    model = _regressor_model(mesh)

    def decode(features: dict[str, mtf.Tensor]) -> mtf.Tensor:
        step = model.decoder(features).step
        ids = mtf.zeros(mesh, f"batch:{REGRESSOR_BATCH}", "int32")
        return mtf.log_softmax(step(ids, mtf.constant(mesh, 0, dtype="int32"), ())[0], model.vocab)

    log_probs = mtf.to_numpy(mtf.function(decode)(_regressor_on_mesh(mesh)))
    predictions = mtf.to_numpy(mtf.function(model.logits)(_regressor_on_mesh(mesh)))[:, 0, 0]
    expected = np.abs(predictions[:, None] - NUMBERS).argmin(-1)
    np.testing.assert_array_equal(log_probs.argmax(-1), expected)
    assert_close(log_probs.max(-1), np.zeros([REGRESSOR_BATCH]))
    assert len(set(expected.tolist())) > 1


def test_several_numbers_are_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(InputError, match="has one answer"):
        _regressor_model(mesh).decoder(_regressor_on_mesh(mesh), mtf.Dimension("beam", 2))


def test_targets_are_not_scored() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(InputError, match="TextRegressor scores no targets: `mtfrun decode` prints"):
        _regressor_model(mesh).target_nats(_regressor_on_mesh(mesh))
