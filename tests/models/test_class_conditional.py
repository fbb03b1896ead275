"""A class-conditional model: the vector of a class at every position, steps, layouts, errors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models import transformer
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import on_mesh
from tests.models.step_by_step import logits_step_by_step
from tests.models.under_layouts import Step, assert_same_step, training_step

IMAGE = transformer.ImageSize(6, 4)
LENGTH = 24
NUM_CLASSES = 4
BATCH = 4
LABELS = np.array([2, 0, 3, 2], np.int32)
LAYOUT = "batch:data;d_ff:model;heads:model;vocab:model"


def _settings() -> dict[str, Any]:
    attention = functools.partial(
        transformer.LocalImageAttention,
        image=IMAGE,
        rows=1,
        cols=1,
        heads=transformer.AttentionHeads(2, d_kv=4),
    )
    feed_forward = functools.partial(transformer.FeedForward, d_ff=16)
    return {
        "embedding": transformer.TokenEmbedding(
            d_model=8,
            max_length=LENGTH,
            position=functools.partial(transformer.ImagePositions, image=IMAGE),
            padding_id=-1,
            tied_softmax=False,
        ),
        "stack": functools.partial(
            transformer.Stack, num_layers=1, layers=[attention, feed_forward]
        ),
    }


def _model(mesh: mtf.Mesh) -> transformer.ClassConditional:
    model = transformer.ClassConditional(mesh, 256, NUM_CLASSES, **_settings())
    mtf.initialize(model, 1)
    return model


def _targets() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, [BATCH, LENGTH]).astype(np.int32)


def _logits(model: transformer.DecoderOnly, mesh: mtf.Mesh, **features: np.ndarray) -> np.ndarray:
    return mtf.to_numpy(mtf.function(model.logits)(on_mesh(mesh, features)))


def test_the_vector_of_a_class_is_added_at_every_position() -> None:
    mesh = mtf.Mesh()
    model, targets = _model(mesh), _targets()
    logits = _logits(model, mesh, targets=targets, labels=LABELS)
    plain = transformer.DecoderOnly(mesh, 256, **_settings())
    mtf.initialize(plain, 1)
    values = {path: mtf.to_numpy(v) for path, v in model.named_variables().items()}
    classes = values.pop("label_embedding/table")
    for row, label in enumerate(LABELS):
        # What a model without classes computes if the vectors of all ids contain the class.
        of_class = {**values, "embedding/table": values["embedding/table"] + classes[label]}
        for path, variable in plain.named_variables().items():
            mtf.assign(variable, mtf.import_tf_tensor(mesh, of_class[path], variable.shape))
        expected = _logits(plain, mesh, targets=targets)
        assert_close(logits[row], expected[row], FLOAT32_MODEL_TOLERANCE)


def test_steps_have_the_logits_of_whole_images_of_their_class() -> None:
    mesh = mtf.Mesh()
    model, targets = _model(mesh), _targets()
    whole = _logits(model, mesh, targets=targets, labels=LABELS)
    stepwise = logits_step_by_step(model, mesh, {"labels": LABELS}, targets)
    assert_close(stepwise, whole, FLOAT32_MODEL_TOLERANCE)
    beams = np.stack([targets, targets[::-1]])
    of_beams = logits_step_by_step(model, mesh, {"labels": LABELS}, beams)
    assert_close(of_beams[0], whole, FLOAT32_MODEL_TOLERANCE)


@functools.cache
def _step(mesh_shape: str, layout: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    return training_step(_model(mesh), mesh, {"targets": _targets(), "labels": LABELS})


@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        ("data:2,model:2", LAYOUT),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("data:2,model:1", LAYOUT),
                ("data:2,model:2", "batch:data;length:model"),
                ("data:2,model:2", "d_model:data;classes:model"),
            ]
        ),
    ],
)
def test_a_layout_changes_neither_loss_nor_gradients(mesh_shape: str, layout: str) -> None:
    assert_same_step(_step(mesh_shape, layout), _step(ONE_DEVICE, LAYOUT))


def test_a_text_has_no_class() -> None:
    with pytest.raises(InputError, match="has no vectors of texts"):
        ids = mtf.zeros(mtf.Mesh(), "batch:1;length:4", tf.int32)
        _model(mtf.Mesh()).vectors(ids)
