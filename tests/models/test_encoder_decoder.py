"""Encoder-decoders: masks, packing, and decoding step by step."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow.parity import SharedLayersEncoderDecoder
from mtfrun.models.transformer import EncoderDecoder, SequenceCall, Stack, TokenEmbedding
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    PAIRS_BATCH,
    VOCABULARY,
    assert_steps_equal_whole_rows,
    on_mesh,
    packed_pairs,
    pairs,
    small_encoder_decoder,
)

# A layer each of bfloat16 (8 bits of mantissa) against float32.
BFLOAT16_MODEL_TOLERANCE = 0.05


def _logits(model: EncoderDecoder, mesh: mtf.Mesh, features: dict[str, np.ndarray]) -> np.ndarray:
    return mtf.to_numpy(mtf.function(model.logits)(on_mesh(mesh, features)))


def test_targets_see_all_inputs_and_the_targets_before_them() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh)
    rows = pairs()
    before = _logits(model, mesh, rows)
    other_targets = {**rows, "targets": rows["targets"].copy()}
    other_targets["targets"][:, 2] = rows["targets"][:, 2] % (VOCABULARY - 1) + 1
    after = _logits(model, mesh, other_targets)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.all(np.abs(after[:, 3:] - before[:, 3:]).max(-1) > 1e-4)
    other_inputs = {**rows, "inputs": rows["inputs"].copy()}
    other_inputs["inputs"][:, 6] = rows["inputs"][:, 6] % (VOCABULARY - 1) + 1
    assert np.all(np.abs(_logits(model, mesh, other_inputs) - before).max(-1) > 1e-5)


def test_padding_of_the_inputs_changes_nothing() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh)
    rows = {"inputs": pairs()["inputs"][:, :7], "targets": pairs()["targets"]}
    longer = {**rows, "inputs": np.pad(rows["inputs"], [(0, 0), (0, 5)])}
    expected = _logits(model, mesh, rows)
    assert_close(_logits(model, mesh, longer), expected, FLOAT32_MODEL_TOLERANCE)


def test_packed_pairs_have_the_logits_that_they_have_alone() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh)
    packed = packed_pairs()
    logits = _logits(model, mesh, packed)
    for inputs, targets in ((slice(0, 4), slice(0, 3)), (slice(4, 9), slice(3, 5))):
        alone = {"inputs": packed["inputs"][:, inputs], "targets": packed["targets"][:, targets]}
        expected = _logits(model, mesh, alone)
        assert_close(logits[:, targets], expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    "mesh_shape, beams",
    [
        (ONE_DEVICE, None),
        (ONE_DEVICE, 3),
        ("data:2,model:2", 3),
        pytest.param("data:2,model:2", None, marks=pytest.mark.slow),
    ],
)
def test_decoding_step_by_step_gives_the_logits_of_whole_rows(
    mesh_shape: str, beams: int | None
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    embedding = TokenEmbedding(d_model=16, max_length=16, tied_softmax=False)
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


@pytest.mark.slow
def test_bfloat16_activations_stay_near_float32() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    policy = mtf.DTypePolicy(activation="bfloat16")
    model, exact = small_encoder_decoder(mesh, dtypes=policy), small_encoder_decoder(mesh)
    logits, expected = (_logits(m, mesh, packed_pairs()) for m in (model, exact))
    assert logits.dtype == np.float32
    assert_close(logits, expected, BFLOAT16_MODEL_TOLERANCE)
    # They are not float32 by accident.
    assert np.abs(logits - expected).max() > 1e-4


def test_inputs_may_have_a_vocabulary_of_their_own() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh, inputs_vocabulary_size=20)
    variables = model.named_variables()
    assert variables["inputs_embedding/table"].shape.to_string == "vocab:20;d_model:16"
    assert variables["embedding/table"].shape.to_string == "vocab:16;d_model:16"
    rows = pairs()
    assert np.isfinite(_logits(model, mesh, {**rows, "inputs": rows["inputs"] + 4})).all()


def test_an_encoder_decoder_attention_without_an_encoder_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_encoder_decoder(mesh)
    x = mtf.zeros(mesh, "batch:2;length:3;d_model:16")
    with pytest.raises(ValueError, match="needs an encoder's output"):
        model.decoder_stack(x, SequenceCall())


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

    def loss_and_gradients(model: EncoderDecoder, features: dict[str, mtf.Tensor]) -> Any:
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
    stack = functools.partial(Stack, num_layers=2)
    with pytest.raises(InputError, match="stacks of 1 and 2 blocks cannot share layers"):
        small_encoder_decoder(mtf.Mesh(ONE_DEVICE), encoder=stack, cls=SharedLayersEncoderDecoder)
