"""Encoders and encoder-decoders: masks, packing, decoding step by step, layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow.parity import SharedLayersEncoderDecoder
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, LAYOUTS, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    PAIRS_BATCH,
    VOCABULARY,
    Step,
    assert_same_step,
    assert_steps_equal_whole_rows,
    logits_of,
    on_mesh,
    packed_pairs,
    pairs,
    small_encoder_decoder,
    training_step,
)


def test_targets_see_all_inputs_and_the_targets_before_them() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh)
    rows = pairs()
    before = logits_of(model, mesh, rows)
    other_targets = {**rows, "targets": rows["targets"].copy()}
    other_targets["targets"][:, 2] = rows["targets"][:, 2] % (VOCABULARY - 1) + 1
    after = logits_of(model, mesh, other_targets)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.all(np.abs(after[:, 3:] - before[:, 3:]).max(-1) > 1e-4)
    other_inputs = {**rows, "inputs": rows["inputs"].copy()}
    other_inputs["inputs"][:, 6] = rows["inputs"][:, 6] % (VOCABULARY - 1) + 1
    assert np.all(np.abs(logits_of(model, mesh, other_inputs) - before).max(-1) > 1e-5)


def test_padding_of_the_inputs_changes_nothing() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh)
    rows = {"inputs": pairs()["inputs"][:, :7], "targets": pairs()["targets"]}
    longer = {**rows, "inputs": np.pad(rows["inputs"], [(0, 0), (0, 5)])}
    expected = logits_of(model, mesh, rows)
    assert_close(logits_of(model, mesh, longer), expected, FLOAT32_MODEL_TOLERANCE)


def test_packed_pairs_have_the_logits_that_they_have_alone() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh)
    packed = packed_pairs()
    logits = logits_of(model, mesh, packed)
    for inputs, targets in ((slice(0, 4), slice(0, 3)), (slice(4, 9), slice(3, 5))):
        alone = {"inputs": packed["inputs"][:, inputs], "targets": packed["targets"][:, targets]}
        expected = logits_of(model, mesh, alone)
        assert_close(logits[:, targets], expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
@pytest.mark.parametrize("beams", [None, 3])
def test_decoding_step_by_step_gives_the_logits_of_whole_rows(
    mesh_shape: str, beams: int | None
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    embedding = t.TokenEmbedding(d_model=16, max_length=16, tied_softmax=False)
    assert_steps_equal_whole_rows(small_encoder_decoder(mesh, embedding=embedding), mesh, beams)


def test_beams_share_what_the_encoder_made() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    features = on_mesh(mesh, {"inputs": pairs()["inputs"]})
    features["targets"] = mtf.zeros(mesh, f"batch:{PAIRS_BATCH};length:6", tf.int32)
    beam = mtf.Dimension("beam", 3)
    state = small_encoder_decoder(mesh).decoder(features, beam).initial_state
    for block in state:
        assert "beam" in block["self_attention"].keys.shape.dimension_names
        assert "beam" not in block["encoder_decoder_attention"].keys.shape.dimension_names


def test_inputs_may_have_a_vocabulary_of_their_own() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh, inputs_vocabulary_size=20)
    variables = model.named_variables()
    assert variables["inputs_embedding/table"].shape.to_string == "vocab:20;d_model:16"
    assert variables["embedding/table"].shape.to_string == "vocab:16;d_model:16"
    rows = pairs()
    assert np.isfinite(logits_of(model, mesh, {**rows, "inputs": rows["inputs"] + 4})).all()


def test_an_encoder_decoder_attention_without_an_encoder_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh)
    x = mtf.zeros(mesh, "batch:2;length:3;d_model:16")
    with pytest.raises(ValueError, match="needs an encoder's output"):
        model.decoder_stack(x, t.SequenceCall())


@pytest.mark.slow
def test_shared_layers_have_the_variables_and_gradients_of_both_stacks() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    shared = small_encoder_decoder(mesh, cls=SharedLayersEncoderDecoder)
    separate = small_encoder_decoder(mesh)
    variables, copies = shared.named_variables(), separate.named_variables()
    decoder_only = [path for path in variables if path.startswith("decoder_stack/blocks/")]
    assert decoder_only
    assert all("/encoder_decoder_attention/" in path for path in decoder_only)
    in_both = [path for path in copies if path not in variables]
    origins = {path: path.replace("decoder_stack", "encoder_stack") for path in in_both}
    for path, copy in copies.items():
        mtf.assign(copy, mtf.read_variable(variables[origins.get(path, path)]))

    def loss_and_gradients(model: t.EncoderDecoder, features: dict[str, mtf.Tensor]) -> Any:
        def total() -> mtf.Tensor:
            return model.loss(features, training=True, key=mtf.random_key(0)).total

        return mtf.value_and_gradients(total, model.named_variables())

    (loss, gradients), (expected, of_copies) = (
        mtf.to_numpy(mtf.function(functools.partial(loss_and_gradients, model))(rows))
        for model, rows in ((m, on_mesh(mesh, pairs())) for m in (shared, separate))
    )
    assert_close(loss, expected, FLOAT32_MODEL_TOLERANCE)
    for path, origin in origins.items():
        of_copies[origin] = of_copies[origin] + of_copies.pop(path)
    for path, gradient in gradients.items():
        assert_close(gradient, of_copies[path], FLOAT32_MODEL_TOLERANCE)
    assert_steps_equal_whole_rows(shared, mesh, None)


def test_stacks_of_different_depth_cannot_share_layers() -> None:
    stack = functools.partial(t.Stack, num_layers=2)
    with pytest.raises(InputError, match="stacks of 1 and 2 blocks cannot share layers"):
        small_encoder_decoder(mtf.Mesh(ONE_DEVICE), encoder=stack, cls=SharedLayersEncoderDecoder)


FEATURES = {"packed": packed_pairs, "unpacked": pairs}

CASES = [
    ("unpacked", ONE_DEVICE, True),
    ("packed", "data:2,model:2", True),
    ("packed", "data:4,model:2", False),
    ("unpacked", "data:4,model:2", False),
]


@functools.cache
def _step(rows: str, mesh_shape: str, rematerialise: bool) -> Step:
    """Returns a training step with dropout, label smoothing and z-loss."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_encoder_decoder(
        mesh,
        dropout_rate=0.2,
        rematerialise=rematerialise,
        loss=t.TokenLoss(label_smoothing=0.1, z_loss=0.01),
    )
    return training_step(model, mesh, FEATURES[rows]())


@pytest.mark.slow
@pytest.mark.parametrize("rows, mesh_shape, rematerialise", CASES)
def test_loss_and_gradients_are_the_same_everywhere(
    rows: str, mesh_shape: str, rematerialise: bool
) -> None:
    actual = _step(rows, mesh_shape, rematerialise)
    assert_same_step(actual, _step(rows, ONE_DEVICE, False))


LABELS = 5
KINDS_OF_ENCODERS = ("masked", "labels", "mean")


def _encoder(mesh: mtf.Mesh, kind: str) -> t.EncoderOnly:
    """Returns an encoder with norms behind its sublayers, but for the first; id 0 is a token."""
    dropout = functools.partial(t.SublayerDropout, rate=0.2)
    layer: list[Callable[..., t.Transform]] = [*(t.CallLayer, dropout, t.Residual, t.LayerNorm)]
    stack = functools.partial(
        t.Stack,
        num_layers=2,
        layers=[
            functools.partial(t.SelfAttention, heads=t.AttentionHeads(4, d_kv=4)),
            functools.partial(t.FeedForward, d_ff=32, use_bias=True),
        ],
        transforms=t.StackTransforms([t.LayerNorm], layer, [], first=layer[:-1]),
    )
    head: list[Callable[..., t.Transform]] = [
        functools.partial(t.DenseTransform, activation=mtf.tanh),
        dropout,
    ]
    if kind == "mean":
        head.insert(0, t.MeanOverLength)
    embedding = t.TokenEmbedding(
        d_model=16, max_length=16, padding_id=-1, softmax_bias=True, vocabulary_divisor=8
    )
    num_labels = None if kind == "masked" else LABELS
    model = t.EncoderOnly(
        *(mesh, VOCABULARY),
        embedding=embedding,
        stack=stack,
        head=head,
        num_types=2,
        num_labels=num_labels,
    )
    mtf.initialize(model, seed=2)
    return model


def _features(kind: str) -> dict[str, np.ndarray]:
    """Returns rows of 12 ids, 7 of them in every other row."""
    random = np.random.default_rng(0)
    shape = (8, 12)
    is_id = np.arange(12) < np.where(np.arange(8) % 2, 7, 12)[:, None]
    targets = np.full(shape, -1)
    if kind == "masked":
        targets = np.where(is_id, random.integers(0, VOCABULARY, shape), -1)
    else:
        targets[:, 0] = random.integers(0, LABELS, 8)
    features = {
        "inputs": np.where(is_id, random.integers(0, VOCABULARY, shape), -1),
        "inputs_types": random.integers(0, 2, shape),
        "targets": targets,
    }
    return {name: ids.astype(np.int32) for name, ids in features.items()}


@functools.cache
def _encoder_step(kind: str, mesh_shape: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    return training_step(_encoder(mesh, kind), mesh, _features(kind))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", LAYOUTS[1:])
@pytest.mark.parametrize("kind", KINDS_OF_ENCODERS)
def test_loss_and_gradients_are_the_same_everywhere_in_encoders(kind: str, mesh_shape: str) -> None:
    assert_same_step(_encoder_step(kind, mesh_shape), _encoder_step(kind, ONE_DEVICE))


def test_padding_changes_no_logits_and_types_do() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _encoder(mesh, "mean")
    features = _features("mean")
    inputs, types = features["inputs"][1:2], np.zeros([1, 12], np.int32)
    logits = logits_of(model, mesh, {"inputs": inputs, "inputs_types": types})
    # By default all types are 0, and all positions have the mean.
    assert_close(logits_of(model, mesh, {"inputs": inputs}), logits, FLOAT32_MODEL_TOLERANCE)
    assert_close(logits_of(model, mesh, {"inputs": inputs[:, :7]})[0, 3], logits[0, 0], 1e-5)
    others = logits_of(model, mesh, {"inputs": inputs, "inputs_types": 1 - types})
    assert np.abs(others - logits)[..., :LABELS].max() > 1e-3


def test_padding_of_the_labels_is_another_than_that_of_the_inputs() -> None:
    embedding = t.TokenEmbedding(d_model=8)
    stack = functools.partial(t.Stack, num_layers=1)
    model = t.EncoderOnly(mtf.Mesh(ONE_DEVICE), 9, embedding=embedding, stack=stack, num_labels=3)
    assert (model.padding_of("inputs"), model.padding_of("targets")) == (0, -1)
    assert model.vocabulary_sizes == {"embedding/table": 9, "softmax/kernel": 3}
