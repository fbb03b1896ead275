"""What a language model computes: packing, shifts, loss, types, and decoding step by step."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call
from mtfrun.models import Loss
from mtfrun.models.transformer import TokenEmbedding, TokenLoss, shift_right
from mtfrun.models.transformer.tokens import token_softmax
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    Step,
    assert_same_step,
    logits_of,
    logits_step_by_step,
    on_mesh,
    packed_rows,
    small_model,
    training_step,
)

# Two layers of bfloat16 (8 bits of mantissa) against float32.
BFLOAT16_MODEL_TOLERANCE = 0.05


def _cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    log_z = np.log(np.exp(logits).sum(-1))
    return log_z - np.take_along_axis(logits, targets[..., np.newaxis], -1)[..., 0]


def test_packed_documents_have_the_logits_that_they_have_alone() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_model(mesh)
    packed = packed_rows()
    logits = logits_of(model, mesh, packed)
    for begin, end in ((0, 5), (5, 9)):
        alone = logits_of(model, mesh, {"targets": packed["targets"][:, begin:end]})
        assert_close(logits[:, begin:end], alone, FLOAT32_MODEL_TOLERANCE)


def test_no_position_sees_its_own_target_or_a_later_one() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_model(mesh)
    targets = packed_rows()["targets"] + 1
    before = logits_of(model, mesh, {"targets": targets})
    changed = targets.copy()
    changed[:, 6] = targets[:, 6] % (VOCABULARY - 1) + 1
    after = logits_of(model, mesh, {"targets": changed})
    np.testing.assert_array_equal(after[:, :7], before[:, :7])
    assert np.all(np.abs(after[:, 7:] - before[:, 7:]).max(-1) > 1e-4)


def test_targets_shift_by_one_and_start_again_with_each_segment() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    features = on_mesh(
        mesh,
        {"targets": np.asarray([[5, 6, 7, 8, 9, 0]]), "segments": np.asarray([[1, 1, 2, 2, 2, 0]])},
    )
    length = mtf.Dimension("length", 6)
    plain = shift_right(features["targets"], length)
    np.testing.assert_array_equal(mtf.to_numpy(plain), [[0, 5, 6, 7, 8, 9]])
    packed = shift_right(features["targets"], length, features["segments"])
    np.testing.assert_array_equal(mtf.to_numpy(packed), [[0, 5, 0, 7, 8, 0]])


def test_the_loss_sums_over_tokens_that_are_not_padding() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_model(mesh, loss=TokenLoss(label_smoothing=0.1, z_loss=0.01))
    packed = packed_rows()
    logits, targets = logits_of(model, mesh, packed), packed["targets"]
    weights = targets != 0
    plain = _cross_entropy(logits, targets)
    right = (logits.argmax(-1) == targets) & weights
    log_z = np.log(np.exp(logits).sum(-1))
    smooth = 0.9 * plain + 0.1 * (log_z - logits.mean(-1)) + 0.01 * log_z**2

    def losses(features: dict[str, mtf.Tensor]) -> list[Loss]:
        key = mtf.random_key(0)
        return [model.loss(features, training=True, key=key), model.loss(features, training=False)]

    training, evaluating = mtf.to_numpy(mtf.function(losses)(on_mesh(mesh, packed)))
    assert_close(training.total, (smooth * weights).sum(), FLOAT32_MODEL_TOLERANCE)
    assert_close(evaluating.total, (plain * weights).sum(), FLOAT32_MODEL_TOLERANCE)
    for loss in (training, evaluating):
        assert loss.weight == weights.sum()
        assert_close(loss.metrics["loss"].total, (plain * weights).sum(), FLOAT32_MODEL_TOLERANCE)
        assert loss.metrics["accuracy"].total == right.sum()
        assert loss.metrics["accuracy"].weight == weights.sum()


def test_weights_of_targets_multiply_their_losses() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_model(mesh)
    packed = packed_rows()
    logits, targets = logits_of(model, mesh, packed), packed["targets"]
    weights = np.random.default_rng(1).integers(0, 3, targets.shape)
    features = on_mesh(mesh, {**packed, "targets_weights": weights})
    loss = mtf.to_numpy(mtf.function(lambda x: model.loss(x, training=False))(features))
    weights = weights * (targets != 0)
    assert loss.weight == loss.metrics["accuracy"].weight == weights.sum()
    expected = (_cross_entropy(logits, targets) * weights).sum()
    assert_close(loss.total, expected, FLOAT32_MODEL_TOLERANCE)


def test_the_mean_can_be_over_padding_as_well() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    features = on_mesh(mesh, packed_rows())
    of_tokens, of_positions = (
        mtf.to_numpy(small_model(mesh, loss=loss).loss(features, training=True))
        for loss in (TokenLoss(), TokenLoss(mean_over_padding=True))
    )
    assert of_positions.weight == features["targets"].shape.size > of_tokens.weight
    assert of_positions.total == of_tokens.total
    assert of_positions.metrics == of_tokens.metrics


def test_a_denominator_divides_the_loss_and_evaluations_report_the_quotient() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    features = on_mesh(mesh, packed_rows())
    loss = TokenLoss(label_smoothing=0.1, z_loss=0.01, denominator=100.0)
    model = small_model(mesh, loss=loss)
    evaluation = mtf.to_numpy(model.loss(features, training=False))
    smooth_model = small_model(mesh, loss=TokenLoss(label_smoothing=0.1))
    training = mtf.to_numpy(smooth_model.loss(features, training=True, key=mtf.random_key(0)))
    assert evaluation.weight == 100.0
    objective = evaluation.metrics["objective"]
    assert_close(
        objective.total / objective.weight, training.total / 100.0, FLOAT32_MODEL_TOLERANCE
    )
    assert "objective" not in smooth_model.loss(features, training=False).metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denominator": 0.0}, "at least 1"),
        ({"denominator": 8.0, "mean_over_padding": True}, "set one of them"),
    ],
)
def test_a_divisor_without_meaning_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenLoss(**settings)


@pytest.mark.parametrize("tied_softmax", [False, True])
@pytest.mark.parametrize(
    ("mesh_shape", "transposed_from", "jit"),
    [
        (ONE_DEVICE, token_softmax.TRANSPOSED_FROM, False),
        (ONE_DEVICE, 0, False),
        (ONE_DEVICE, 0, True),
        ("data:2,model:2", 0, False),
    ],
)
def test_decoding_step_by_step_gives_the_logits_of_whole_rows(
    mesh_shape: str,
    transposed_from: int,
    jit: bool,
    tied_softmax: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_softmax, "TRANSPOSED_FROM", transposed_from)
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, tied_softmax=tied_softmax)
    targets = packed_rows()["targets"] + 1
    whole = logits_of(model, mesh, {"targets": targets})
    one_by_one = logits_step_by_step(model, mesh, {}, targets, jit_compile=jit)
    assert_close(one_by_one, whole, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_bfloat16_activations_stay_near_float32() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    policy = mtf.DTypePolicy(activation="bfloat16")
    model, exact = small_model(mesh, dtypes=policy), small_model(mesh)
    packed = packed_rows()
    logits = logits_of(model, mesh, packed)
    assert logits.dtype == np.float32
    assert_close(logits, logits_of(exact, mesh, packed), BFLOAT16_MODEL_TOLERANCE)
    # They are not float32 by accident.
    assert np.abs(logits - logits_of(exact, mesh, packed)).max() > 1e-4
    assert {v.dtype for v in model.named_variables().values()} == {tf.float32}


def test_variables_are_called_after_the_layers() -> None:
    paths = set(small_model(mtf.Mesh(ONE_DEVICE), tied_softmax=False).named_variables())
    assert {
        "embedding/table",
        "position/table",
        "decoder_stack/blocks/1/self_attention/norm/scale",
        "decoder_stack/blocks/1/self_attention/layer/attention/query",
        "decoder_stack/blocks/0/feed_forward/layer/wo/kernel",
        "decoder_stack/final_norm/scale",
        "softmax/kernel",
    } <= paths
    assert len(paths) == 3 + 1 + 2 * (5 + 3)


def test_a_row_longer_than_max_length_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_model(mesh)
    features = on_mesh(mesh, {"targets": np.ones([1, 17], np.int32)})
    features["targets_position"] = features["targets"]
    with pytest.raises(mtf.ShapeError, match=r"length:17 are longer .* max_length=16: raise"):
        model.logits(features)
    with pytest.raises(mtf.ShapeError, match="length:17 are longer"):
        model.decoder(features)


def test_heads_that_the_mesh_does_not_divide_are_refused_before_anything_runs() -> None:
    with pytest.raises(mtf.LayoutError, match=r"heads:4 .* axis model:8"):
        small_model(mtf.Mesh("data:1,model:8", LAYOUT))


def test_label_smoothing_must_be_a_share() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.0: it must be at least 0"):
        TokenLoss(label_smoothing=1.0)


# (features, tied softmax)
VARIANTS = {
    "packed, tied": (("targets", "targets_segmentation", "targets_position"), True),
    "unpacked, untied": (("targets",), False),
    "weighted, tied": (("targets", "targets_weights"), True),
}

EIGHT = "data:4,model:2"
CASES = [
    ("packed, tied", "data:2,model:2", True),
    ("unpacked, untied", ONE_DEVICE, True),
    *((variant, EIGHT, False) for variant in VARIANTS),
]


@functools.cache
def _step(variant: str, mesh_shape: str, rematerialise: bool) -> Step:
    """Returns a training step of one layer, with dropout, label smoothing and z-loss."""
    names, tied_softmax = VARIANTS[variant]
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(
        mesh,
        num_layers=1,
        dropout_rate=0.2,
        rematerialise=rematerialise,
        tied_softmax=tied_softmax,
        loss=TokenLoss(label_smoothing=0.1, z_loss=0.01),
    )
    features = packed_rows()
    features["targets_weights"] = np.arange(features["targets"].size).reshape(8, 12) % 2
    return training_step(model, mesh, {name: features[name] for name in names})


@pytest.mark.parametrize("variant, mesh_shape, rematerialise", CASES)
def test_loss_and_gradients_are_the_same_everywhere(
    variant: str, mesh_shape: str, rematerialise: bool
) -> None:
    actual = _step(variant, mesh_shape, rematerialise)
    assert_same_step(actual, _step(variant, ONE_DEVICE, False))


@pytest.mark.parametrize(
    ("settings", "stddev"),
    [
        ({}, 1.0),
        ({"scaled_softmax": False}, 1 / 8),
        ({"scaled_softmax": False, "scaled_vectors": True}, 1.0),
        ({"scaled_softmax": False, "tied_softmax": False}, 1.0),
    ],
)
def test_learned_positions_start_as_large_as_the_vectors_of_ids(
    settings: dict[str, Any], stddev: float
) -> None:
    embedding = TokenEmbedding(d_model=64, max_length=256, **settings)
    mesh = mtf.Mesh(ONE_DEVICE)
    table = embedding.make_table(mesh, 256)
    learned = embedding.make_positions(mesh, embedding.position)
    assert learned is not None
    mtf.initialize(table)
    mtf.initialize(learned)
    ids = mtf.range(mesh, mtf.Dimension("length", 256), tf.int32)
    vectors = table(ids, Call())
    np.testing.assert_allclose(mtf.to_numpy(vectors).std(), stddev, rtol=0.05)
    positions = learned.first(ids.shape[0])
    np.testing.assert_allclose(mtf.to_numpy(positions).std(), stddev, rtol=0.05)
