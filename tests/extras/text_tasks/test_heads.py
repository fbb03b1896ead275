"""Heads of encoders: spans, numbers and sets of labels; their losses, decoders and layouts."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from mtfrun import data, mtf
from mtfrun.errors import InputError
from mtfrun.extras import text_tasks
from mtfrun.models import transformer as t
from tests.layouts import ONE_DEVICE, assert_close
from tests.models.small_model import Step, assert_same_step, training_step

BATCH, LENGTH, VOCABULARY, END = 4, 16, 200, 1
MAX_SPAN = 3
# The first id of the context, and the number of ids of a row, its end included.
CONTEXT, USED = 5, (16, 12, 9, 16)
SPANS = [[6, 8], [5, 5], [-1, -1], [10, 14]]
NUMBERS = text_tasks.NumberVocabulary(-4.0, 4.0, 1)
# Ids of numbers, and sets of labels; the third row has no loss.
IDS = (80, 3, -1, 0)
LABELS = 5
SETS: tuple[list[int] | None, ...] = ([0, 2], [], None, [1, 2, 4])

MODELS = {
    "spans": functools.partial(
        text_tasks.SpanLabeler, answers=data.IdVocabulary(VOCABULARY, END), max_span=MAX_SPAN
    ),
    "numbers": functools.partial(text_tasks.TextRegressor, answers=NUMBERS),
    "labels": functools.partial(
        text_tasks.MultiLabelClassifier, answers=text_tasks.LabelSetVocabulary("abcde")
    ),
}


def _model(mesh: mtf.Mesh, kind: str) -> Any:
    heads = t.AttentionHeads(num_heads=2, d_kv=4)
    layers = [
        functools.partial(t.SelfAttention, heads=heads, dropout_rate=0.1),
        functools.partial(t.FeedForward, d_ff=8, dropout_rate=0.1),
    ]
    model = MODELS[kind](
        mesh,
        vocabulary_size=VOCABULARY,
        embedding=t.TokenEmbedding(d_model=8, vocabulary_divisor=8, max_length=LENGTH),
        stack=functools.partial(t.Stack, num_layers=1, layers=layers),
        num_types=2,
    )
    mtf.initialize(model, seed=2)
    return model


def _features(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    place = np.arange(LENGTH)
    used = place < np.array(USED)[:, None]
    inputs = np.where(used, rng.integers(3, VOCABULARY, [BATCH, LENGTH]), 0)
    inputs[np.arange(BATCH), np.array(USED) - 1] = END
    targets = np.full([BATCH, LENGTH], -1)
    if kind == "spans":
        targets = np.array(SPANS)
    elif kind == "numbers":
        targets[:, 0] = IDS
    else:
        for row, labels in zip(targets, SETS, strict=True):
            if labels is not None:
                row[: len(labels) + 1] = [*labels, LABELS]
    types = used & (place >= CONTEXT)
    features = {"inputs": inputs, "inputs_types": types, "targets": targets}
    return {name: values.astype(np.int32) for name, values in features.items()}


def _on_mesh(mesh: mtf.Mesh, kind: str) -> dict[str, mtf.Tensor]:
    return {
        name: mtf.import_tf_tensor(mesh, x, f"batch:{BATCH};length:{x.shape[1]}")
        for name, x in _features(kind).items()
    }


@functools.cache
def _step(kind: str, mesh_shape: str, layout: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    return training_step(_model(mesh, kind), mesh, {}, _on_mesh(mesh, kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        ("data:2,model:2", "batch:data;heads:model;d_ff:model;vocab:model"),
        ("data:1,model:2", "d_model:model"),
    ],
)
def test_a_layout_changes_neither_loss_nor_gradients(
    kind: str, mesh_shape: str, layout: str
) -> None:
    assert_same_step(_step(kind, mesh_shape, layout), _step(kind, ONE_DEVICE, ""))


def _evaluated(kind: str, mesh: mtf.Mesh) -> tuple[Any, Any, np.ndarray]:
    """Returns a model, the metrics of its loss, and its logits."""
    model = _model(mesh, kind)
    features = _on_mesh(mesh, kind)
    inputs = {name: x for name, x in features.items() if name != "targets"}
    metrics = mtf.function(lambda x: model.loss(x, training=False).metrics)(features)
    return model, mtf.to_numpy(metrics), mtf.to_numpy(mtf.function(model.logits)(inputs))


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns [row, first or last, position]."""
    logits = logits[..., :2].astype(np.float64)
    logits = np.where(
        np.arange(LENGTH)[None, :, None] < np.array(USED)[:, None, None], logits, -1e9
    )
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    return logits.transpose(0, 2, 1)


def test_the_loss_of_spans_is_the_mean_of_both_positions() -> None:
    _, metrics, logits = _evaluated("spans", mtf.Mesh(ONE_DEVICE))
    log_probabilities = _log_probabilities(logits)
    expected = [
        -log_probabilities[row, [0, 1], SPANS[row]].mean() for row in range(BATCH) if row != 2
    ]
    assert_close(metrics["loss"].total, np.sum(expected))
    assert metrics["loss"].weight == 3
    # Rows without a target do not count; padding was not taken for a place.
    assert 0 <= metrics["accuracy"].total <= 3


def test_the_loss_of_numbers_is_the_squared_error_of_rows_with_a_number() -> None:
    _, metrics, logits = _evaluated("numbers", mtf.Mesh(ONE_DEVICE))
    ids = np.array(IDS)
    squares = (logits[:, 0, 0] - NUMBERS.numbers[ids]) ** 2
    assert_close(metrics["loss"].total, squares[ids >= 0].sum())
    assert metrics["loss"].weight == 3


def test_the_loss_of_labels_is_the_mean_binary_cross_entropy_of_rows_with_a_target() -> None:
    _, metrics, logits = _evaluated("labels", mtf.Mesh(ONE_DEVICE))
    rows = [row for row, labels in enumerate(SETS) if labels is not None]
    odds = logits[rows, 0, :LABELS]
    has_label = np.array([np.isin(np.arange(LABELS), SETS[row] or []) for row in rows])
    nats = np.logaddexp(0.0, odds) - odds * has_label
    is_right = ((odds > 0) == has_label).all(1)
    for name, expected in (("loss", nats.mean()), ("accuracy", is_right.mean())):
        assert_close(metrics[name].total / metrics[name].weight, expected, 1e-5)


def _decoded(model: Any, mesh: mtf.Mesh, kind: str, steps: int) -> list[np.ndarray]:
    """Returns the log-probabilities [batch, vocab] of steps."""

    def decode(features: dict[str, mtf.Tensor]) -> list[mtf.Tensor]:
        step = model.decoder(features).step
        ids = mtf.zeros(mesh, f"batch:{BATCH}", "int32")
        return [
            mtf.log_softmax(step(ids, mtf.constant(mesh, i, dtype="int32"), ())[0], model.vocab)
            for i in range(steps)
        ]

    return [mtf.to_numpy(x) for x in mtf.function(decode)(_on_mesh(mesh, kind))]


MESHES = [
    (ONE_DEVICE, ""),
    pytest.param("data:2,model:2", "batch:data;heads:model;vocab:model", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("mesh_shape", "layout"), MESHES)
def test_a_decoder_copies_the_best_span_of_the_context(mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    model, _, logits = _evaluated("spans", mesh)
    log_probabilities, inputs = _log_probabilities(logits), _features("spans")["inputs"]
    results = _decoded(model, mesh, "spans", MAX_SPAN + 1)
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


@pytest.mark.parametrize(("mesh_shape", "layout"), MESHES)
def test_a_decoder_has_the_nearest_number(mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    model, _, logits = _evaluated("numbers", mesh)
    (log_probs,) = _decoded(model, mesh, "numbers", 1)
    expected = np.abs(logits[:, 0, 0, None] - NUMBERS.numbers).argmin(-1)
    np.testing.assert_array_equal(log_probs.argmax(-1), expected)
    assert_close(log_probs.max(-1), np.zeros([BATCH]))
    assert len(set(expected.tolist())) > 1


@pytest.mark.parametrize("kind", MODELS)
def test_beams_and_scores_are_refused(kind: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh, kind)
    with pytest.raises(InputError, match=r"has one answer|leave the beam size"):
        model.decoder(_on_mesh(mesh, kind), mtf.Dimension("beam", 2))
    if kind != "spans":
        with pytest.raises(InputError, match="scores no targets"):
            model.target_nats(_on_mesh(mesh, kind))
