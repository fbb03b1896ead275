"""Models of pixels: image transformers, also conditional on a class."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras import vision
from mtfrun.layers import AttentionBias, AttentionHeads, Call, causal_mask
from mtfrun.models import transformer
from mtfrun.models.transformer.sublayer import SequenceCall
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    Step,
    assert_same_step,
    logits_of,
    logits_step_by_step,
    training_step,
)

# Longer than a block of attention, which has at least 128 positions.
IMAGE = vision.ImageSize(10, 6, 3)
LENGTH = 10 * 6 * 3
ROWS, COLS = 2, 1
WIDTH = mtf.Dimension("d_model", 8)
HEADS = AttentionHeads(2, d_kv=4)
LAYOUT = "batch:data;d_ff:model;heads:model;vocab:model"


def _sees(position: int, other: int) -> bool:
    """Returns whether a value of the image sees another one, by the definition."""
    (row, column), (other_row, other_column) = (
        divmod(i // IMAGE.channels, IMAGE.cols) for i in (position, other)
    )
    is_earlier = other <= position and row - other_row <= ROWS
    in_window = position - other < ROWS * IMAGE.row_length + (COLS + 1) * IMAGE.channels
    return is_earlier and in_window and abs(column - other_column) <= COLS


def test_a_pixel_sees_its_window_and_nothing_else() -> None:
    mesh = mtf.Mesh()
    layer = vision.LocalImageAttention(mesh, WIDTH, image=IMAGE, rows=ROWS, cols=COLS, heads=HEADS)
    mtf.initialize(layer, 0)
    length = mtf.Dimension("length", LENGTH)
    # Row i of the batch differs from the last row at position i.
    base = np.random.default_rng(0).normal(size=[LENGTH, 8]).astype(np.float32)
    rows = np.repeat(base[np.newaxis], LENGTH + 1, 0)
    rows[np.arange(LENGTH), np.arange(LENGTH)] += 1.0
    x = mtf.import_tf_tensor(mesh, rows, [mtf.Dimension("batch", LENGTH + 1), length, WIDTH])
    call = SequenceCall(self_attention_bias=AttentionBias.of(causal_mask(mesh, length)))
    y = mtf.to_numpy(mtf.function(lambda x: layer(x, call))(x))
    influence = np.abs(y[:-1] - y[-1]).max(-1) > 1e-6
    expected = [[_sees(position, other) for position in range(LENGTH)] for other in range(LENGTH)]
    np.testing.assert_array_equal(influence, expected)


def _settings(image: vision.ImageSize, rows: int, dropout_rate: float = 0.0) -> dict[str, Any]:
    attention = functools.partial(
        vision.LocalImageAttention,
        image=image,
        rows=rows,
        cols=COLS,
        heads=HEADS,
        dropout_rate=dropout_rate,
    )
    feed_forward = functools.partial(transformer.FeedForward, d_ff=16)
    return {
        "embedding": transformer.TokenEmbedding(
            d_model=8,
            max_length=image.rows * image.row_length,
            position=functools.partial(vision.ImagePositions, image=image),
            padding_id=-1,
            tied_softmax=False,
        ),
        "stack": functools.partial(
            transformer.Stack, num_layers=1, layers=[attention, feed_forward]
        ),
    }


def _model(mesh: mtf.Mesh, dropout_rate: float = 0.0) -> transformer.DecoderOnly:
    model = transformer.DecoderOnly(mesh, 256, **_settings(IMAGE, ROWS, dropout_rate))
    mtf.initialize(model, 1)
    return model


def _images(number: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, [number, LENGTH]).astype(np.int32)


def test_steps_have_the_logits_of_whole_images() -> None:
    mesh = mtf.Mesh()
    model, targets = _model(mesh), _images(2)
    whole = logits_of(model, mesh, {"targets": targets})
    assert_close(logits_step_by_step(model, mesh, {}, targets), whole, FLOAT32_MODEL_TOLERANCE)


def test_positions_are_the_sum_of_row_column_and_channel() -> None:
    mesh = mtf.Mesh()
    positions = vision.ImagePositions(mesh, LENGTH, WIDTH, image=IMAGE)
    mtf.initialize(positions, 0)
    length = mtf.Dimension("length", LENGTH)
    vectors = mtf.to_numpy(positions.first(length)).reshape(10, 6, 3, 8)
    rows, cols, channels = (
        mtf.to_numpy(table.table) for table in (positions.rows, positions.cols, positions.channels)
    )
    expected = rows[:, np.newaxis, np.newaxis] + cols[:, np.newaxis] + channels
    assert_close(vectors, expected)
    one = positions(mtf.constant(mesh, 100, dtype=tf.int32), Call())
    assert_close(mtf.to_numpy(one), expected.reshape(LENGTH, 8)[100])


def test_positions_outside_of_the_image_are_an_error() -> None:
    with pytest.raises(InputError, match=r"max_length is 181: .* at most 180"):
        vision.ImagePositions(mtf.Mesh(), LENGTH + 1, WIDTH, image=IMAGE)
    with pytest.raises(InputError, match=r"cols"):
        vision.ImageSize(3, 0)


CONDITIONAL_IMAGE = vision.ImageSize(6, 4)
CONDITIONAL_LENGTH = 24
NUM_CLASSES = 4
BATCH = 4
LABELS = np.array([2, 0, 3, 2], np.int32)


def _conditional_model(mesh: mtf.Mesh) -> vision.ClassConditional:
    model = vision.ClassConditional(mesh, 256, NUM_CLASSES, **_settings(CONDITIONAL_IMAGE, 1))
    mtf.initialize(model, 1)
    return model


def _targets() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, [BATCH, CONDITIONAL_LENGTH]).astype(np.int32)


def test_the_vector_of_a_class_is_added_at_every_position() -> None:
    mesh = mtf.Mesh()
    model, targets = _conditional_model(mesh), _targets()
    logits = logits_of(model, mesh, {"targets": targets, "labels": LABELS})
    plain = transformer.DecoderOnly(mesh, 256, **_settings(CONDITIONAL_IMAGE, 1))
    mtf.initialize(plain, 1)
    values = {path: mtf.to_numpy(v) for path, v in model.named_variables().items()}
    classes = values.pop("label_embedding/table")
    for row, label in enumerate(LABELS):
        # What a model without classes computes if the vectors of all ids contain the class.
        of_class = {**values, "embedding/table": values["embedding/table"] + classes[label]}
        for path, variable in plain.named_variables().items():
            mtf.assign(variable, mtf.import_tf_tensor(mesh, of_class[path], variable.shape))
        expected = logits_of(plain, mesh, {"targets": targets})
        assert_close(logits[row], expected[row], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_steps_have_the_logits_of_whole_images_of_their_class() -> None:
    mesh = mtf.Mesh()
    model, targets = _conditional_model(mesh), _targets()
    whole = logits_of(model, mesh, {"targets": targets, "labels": LABELS})
    stepwise = logits_step_by_step(model, mesh, {"labels": LABELS}, targets)
    assert_close(stepwise, whole, FLOAT32_MODEL_TOLERANCE)
    beams = np.stack([targets, targets[::-1]])
    of_beams = logits_step_by_step(model, mesh, {"labels": LABELS}, beams)
    assert_close(of_beams[0], whole, FLOAT32_MODEL_TOLERANCE)


@functools.cache
def _step(kind: str, mesh_shape: str, layout: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    if kind == "plain":
        return training_step(_model(mesh, dropout_rate=0.2), mesh, {"targets": _images(4)})
    return training_step(_conditional_model(mesh), mesh, {"targets": _targets(), "labels": LABELS})


# By default single layers, and prompts that are read on meshes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("plain", LAYOUT),
        ("plain", "batch:data;length:model"),
        ("conditional", "batch:data;length:model"),
        ("conditional", "d_model:data;classes:model"),
    ],
)
def test_a_layout_changes_neither_loss_nor_gradients(kind: str, layout: str) -> None:
    assert_same_step(_step(kind, "data:2,model:2", layout), _step(kind, ONE_DEVICE, LAYOUT))


def test_a_text_has_no_class() -> None:
    with pytest.raises(InputError, match="has no vectors of texts"):
        ids = mtf.zeros(mtf.Mesh(), "batch:1;length:4", tf.int32)
        _conditional_model(mtf.Mesh()).vectors(ids)
