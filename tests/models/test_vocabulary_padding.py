"""Vocabularies that are padded to a divisor: no result changes, and no padding is predicted."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import decoding, mtf
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    EncoderDecoder,
    SelfAttention,
    Stack,
    TokenEmbedding,
    TokenLoss,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import LAYOUT, hypotheses_of, on_mesh, small_encoder_decoder

NUM_IDS, PADDED = 13, 16
MESHES = [ONE_DEVICE, "data:2,model:2"]
SEARCHES = {
    "greedy": decoding.Search(),
    "sampling": decoding.Search(temperature=5.0),
    "nucleus": decoding.Search(temperature=5.0, top_k=NUM_IDS, top_p=0.99),
    "beams that need more than all ids": decoding.Search(beam_size=8),
}


def _model(
    mesh: mtf.Mesh,
    *,
    tied_softmax: bool,
    divisor: int,
    masks_padding: bool = True,
    num_ids: int = NUM_IDS,
) -> DecoderOnly:
    stack = functools.partial(
        Stack,
        num_layers=1,
        layers=[functools.partial(SelfAttention, heads=AttentionHeads(2, d_kv=4))],
    )
    embedding = TokenEmbedding(
        d_model=8,
        max_length=8,
        tied_softmax=tied_softmax,
        vocabulary_divisor=divisor,
        masks_padding=masks_padding,
    )
    loss = TokenLoss(label_smoothing=0.1, z_loss=0.01)
    model = DecoderOnly(mesh, num_ids, embedding=embedding, stack=stack, loss=loss)
    mtf.initialize(model, seed=2)
    return model


def _cut(value: np.ndarray) -> np.ndarray:
    """Returns a value without the padding, which is as large as no other dimension."""
    for axis, size in enumerate(value.shape):
        if size == PADDED:
            value = np.take(value, np.arange(NUM_IDS), axis)
    return value


def _targets() -> np.ndarray:
    targets = np.random.default_rng(0).integers(1, NUM_IDS, [4, 8])
    targets[:, 6:] = 0
    return targets


def _everything(model: DecoderOnly, mesh: mtf.Mesh) -> Any:
    """Returns logits, the loss of training and of evaluation, and gradients."""
    variables = model.named_variables()

    def compute(features: dict[str, mtf.Tensor]) -> Any:
        def total() -> tuple[mtf.Tensor, Any]:
            loss = model.loss(features, training=True, key=mtf.random_key(0))
            return loss.total, loss

        (_, loss), gradients = mtf.value_and_gradients(total, variables)
        return model.logits(features), loss, model.loss(features, training=False), gradients

    return mtf.to_numpy(mtf.function(compute)(on_mesh(mesh, {"targets": _targets()})))


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize("tied_softmax", [False, True])
def test_logits_losses_and_gradients_are_those_without_padding(
    tied_softmax: bool, mesh_shape: str
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    padded = _model(mesh, tied_softmax=tied_softmax, divisor=8)
    plain_mesh = mtf.Mesh(ONE_DEVICE)
    plain = _model(plain_mesh, tied_softmax=tied_softmax, divisor=1)
    values = {path: mtf.to_numpy(v) for path, v in padded.named_variables().items()}
    for path, variable in plain.named_variables().items():
        value = mtf.import_tf_tensor(plain_mesh, _cut(values[path]), variable.shape)
        mtf.assign(variable, value)
    logits, training, evaluation, gradients = _everything(padded, mesh)
    expected = _everything(plain, plain_mesh)
    assert logits.shape[-1] == PADDED
    assert_close(_cut(logits), expected[0], FLOAT32_MODEL_TOLERANCE)
    for loss, other in ((training, expected[1]), (evaluation, expected[2])):
        assert_close(loss.total, other.total, FLOAT32_MODEL_TOLERANCE)
        for name, metric in other.metrics.items():
            assert_close(loss.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)
    for path, gradient in gradients.items():
        assert_close(_cut(gradient), expected[3][path], FLOAT32_MODEL_TOLERANCE)
    padding = gradients["embedding/table" if tied_softmax else "softmax/kernel"]
    np.testing.assert_array_equal(padding[NUM_IDS:] if tied_softmax else padding[:, NUM_IDS:], 0)


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize("tied_softmax", [False, True])
def test_unmasked_padding_counts_as_ids_do(tied_softmax: bool, mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    unmasked = _model(mesh, tied_softmax=tied_softmax, divisor=8, masks_padding=False)
    more_ids = _model(mesh, tied_softmax=tied_softmax, divisor=8, num_ids=PADDED)
    for result, expected in zip(
        _everything(unmasked, mesh), _everything(more_ids, mesh), strict=True
    ):
        tf.nest.map_structure(np.testing.assert_array_equal, result, expected)


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize("name", SEARCHES)
def test_padding_is_never_predicted(name: str, mesh_shape: str) -> None:
    search = SEARCHES[name]
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = _model(mesh, tied_softmax=False, divisor=8)
    kernel = model.named_variables()["softmax/kernel"]
    # Without the mask, ids of the padding would have by far the largest logits.
    far = np.where(np.arange(PADDED) < NUM_IDS, 1.0, 100.0).astype(np.float32)
    mtf.assign(kernel, kernel * mtf.import_tf_tensor(mesh, far, [model.vocab]))

    prompts = _targets() * (np.arange(8) < 2)
    hypotheses = hypotheses_of(model, mesh, search, prompts)
    for row in range(len(prompts)):
        outputs = decoding.n_best(hypotheses, row)
        assert outputs
        for ids, *_ in outputs:
            assert ids.max() < NUM_IDS
            assert np.count_nonzero(ids) > 2 or ids[2] == 0


def test_vocabulary_sizes_are_known_for_all_variables_with_a_vocabulary() -> None:
    embedding = TokenEmbedding(d_model=16, max_length=16, tied_softmax=False, vocabulary_divisor=12)
    model = small_encoder_decoder(
        mtf.Mesh(ONE_DEVICE), embedding=embedding, inputs_vocabulary_size=13
    )
    assert isinstance(model, EncoderDecoder)
    sizes = {
        path: v.shape.get_dim_by_name("vocab").size
        for path, v in model.named_variables().items()
        if "vocab" in v.shape.dimension_names
    }
    assert sizes == {"embedding/table": 24, "inputs_embedding/table": 24, "softmax/kernel": 24}
    assert model.vocabulary_sizes == {
        "embedding/table": 16,
        "inputs_embedding/table": 13,
        "softmax/kernel": 16,
    }


def test_a_divisor_is_positive() -> None:
    with pytest.raises(ValueError, match="vocabulary_divisor is 0: it must be"):
        TokenEmbedding(vocabulary_divisor=0)
