"""Labels of texts: the binary cross entropy, and labels above one half decoded."""

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

BATCH, LENGTH, VOCABULARY, LABELS = 4, 8, 50, 5
# Of each row; the third has no loss.
SETS: tuple[list[int] | None, ...] = ([0, 2], [], None, [1, 2, 4])


def _model(mesh: mtf.Mesh) -> text_tasks.MultiLabelClassifier:
    heads = t.AttentionHeads(num_heads=2, d_kv=4)
    layers = [
        functools.partial(t.SelfAttention, heads=heads, dropout_rate=0.1),
        functools.partial(t.FeedForward, d_ff=8, dropout_rate=0.1),
    ]
    model = text_tasks.MultiLabelClassifier(
        *(mesh, VOCABULARY, LABELS),
        embedding=t.TokenEmbedding(d_model=8, vocabulary_divisor=8, max_length=LENGTH),
        stack=functools.partial(t.Stack, num_layers=1, layers=layers),
        num_types=2,
    )
    mtf.initialize(model, seed=3)
    return model


def _on_mesh(mesh: mtf.Mesh) -> dict[str, mtf.Tensor]:
    targets = np.full([BATCH, LENGTH], -1)
    for row, labels in zip(targets, SETS, strict=True):
        if labels is not None:
            row[: len(labels) + 1] = [*labels, LABELS]
    inputs = np.random.default_rng(0).integers(2, VOCABULARY, [BATCH, LENGTH])
    shape = f"batch:{BATCH};length:{LENGTH}"
    return {
        name: mtf.import_tf_tensor(mesh, values.astype(np.int32), shape)
        for name, values in (("inputs", inputs), ("targets", targets))
    }


@functools.cache
def _step(mesh_shape: str, layout: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    return training_step(_model(mesh), mesh, {}, _on_mesh(mesh))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        ("data:2,model:2", "batch:data;heads:model;d_ff:model;vocab:model"),
        ("data:4,model:1", "batch:data"),
    ],
)
def test_a_layout_changes_neither_loss_nor_gradients(mesh_shape: str, layout: str) -> None:
    assert_same_step(_step(mesh_shape, layout), _step(ONE_DEVICE, ""))


def test_the_loss_is_the_mean_binary_cross_entropy_of_rows_with_a_target() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh)
    metrics = mtf.function(lambda x: model.loss(x, training=False).metrics)(_on_mesh(mesh))
    odds = mtf.to_numpy(mtf.function(model.logits)(_on_mesh(mesh)))[:, 0, :LABELS]
    rows = [row for row, labels in enumerate(SETS) if labels is not None]
    has_label = np.array([np.isin(np.arange(LABELS), SETS[row] or []) for row in rows])
    nats = np.logaddexp(0.0, odds[rows]) - odds[rows] * has_label
    is_right = ((odds[rows] > 0) == has_label).all(1)
    for name, expected in (("loss", nats.mean()), ("accuracy", is_right.mean())):
        metric = metrics[name]
        found = mtf.to_numpy(metric.total) / mtf.to_numpy(metric.weight)
        assert_close(found, expected, 1e-5)


def test_scores_and_beams_are_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh)
    with pytest.raises(InputError, match="scores no targets"):
        model.target_nats(_on_mesh(mesh))
    with pytest.raises(InputError, match="leave the beam size"):
        model.decoder(_on_mesh(mesh), mtf.Dimension("beam", 2))
