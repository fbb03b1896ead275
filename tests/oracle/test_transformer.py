"""Mesh TensorFlow's transformer package: logits, losses, gradients, greedy decodes, checkpoints."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import decoding, mtf, optim
from mtfrun.layers import relative_position_bucket
from mtfrun.models import Loss
from mtfrun.models.transformer.tokens.token_model import TokenModel
from mtfrun.rundir.init_checkpoint import InitCheckpoint
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.oracle.packed import unpack
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_decodes import (
    assert_beam_search_is_the_originals,
    decodes_of,
    greedy,
    on_one_and_several,
    to_the_end,
)
from tests.oracle.reference_models import (
    mesh_for,
    on_mesh,
    reference_gradient,
    reference_value,
    run,
    transformer_model,
    with_weights,
)

# Where the master copy is bfloat16 (8 bits of mantissa), the original computed the loss after
# training with the float32 values that it had not rounded yet; the checkpoint has the rounded ones.
BFLOAT16_CHECKPOINT_TOLERANCE = 2e-3

CASES = reference_cases("transformer")
DECODES, BEAMS = decodes_of(CASES)
BUCKETS = reference_cases("relative_buckets")
CHECKPOINTS = [name for name, case in CASES.items() if "checkpoint" in case.hparams]


def _features(case: ReferenceCase) -> dict[str, np.ndarray]:
    features = {
        name: x
        for name, x in case.with_role("in").items()
        if name.startswith(("inputs", "targets"))
    }
    if case.name == "lm_prefix":
        # The original's padding sees everything, and without segments everything sees it: after
        # the targets' end a row is in its inputs again.
        targets = features["targets"]
        ends = np.cumsum(targets == 1, axis=1) - (targets == 1)
        inside = ends % 2 == 0
        inside[:, 1:] |= inside[:, :-1].copy()
        features["targets_prefix"] = inside.astype(np.int32)
    return features


@functools.cache
def _model(name: str, several: bool) -> tuple[TokenModel, mtf.Mesh]:
    """Returns the model of a case with its weights, which tests do not change."""
    case = CASES[name]
    mesh = mesh_for(case, several)
    return with_weights(transformer_model(mesh, case), case), mesh


def _loss(case: ReferenceCase, loss: Loss | None) -> Any:
    """Returns the original's loss, a number, of a loss in numpy arrays."""
    assert loss is not None
    size = case.arrays["in/targets"].size
    return loss.total / case.hparams.get("loss_denominator", size)


def _assert_logits(case: ReferenceCase, logits: np.ndarray) -> None:
    """Raises unless the logits are the original's; those of padding are 0 there."""
    expected = case.arrays["out/logits_eval"]
    known = np.any(expected != 0.0, axis=-1)
    np.testing.assert_array_equal(known | (case.arrays["in/targets"] != 0), known)
    assert_close(logits[known], expected[known], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name, several", on_one_and_several(CASES))
def test_logits_losses_and_gradients(name: str, several: bool) -> None:
    case = CASES[name]
    model, mesh = _model(name, several)
    # With label smoothing the original smooths the loss of evaluation as well.
    smooth = bool(case.hparams.get("label_smoothing"))
    logits, training, gradients, evaluation = run(
        model, mesh, _features(case), with_gradients=True, with_evaluation=not smooth
    )
    _assert_logits(case, logits)
    assert_close(_loss(case, training), case.arrays["out/loss_train"], FLOAT32_MODEL_TOLERANCE)
    if not smooth:
        expected = case.arrays["out/loss_eval"]
        assert_close(_loss(case, evaluation), expected, FLOAT32_MODEL_TOLERANCE)
    variables = model.named_variables()
    denominator = case.hparams.get("loss_denominator", case.arrays["in/targets"].size)
    for path, gradient in gradients.items():
        expected = reference_gradient(case, path, variables)
        assert_close(gradient / denominator, expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name, decode, several", on_one_and_several(DECODES))
def test_greedy_decodes(name: str, decode: str, several: bool) -> None:
    case = CASES[name]
    options = case.hparams[f"decode_{decode}"]
    model, mesh = _model(name, several)
    expected = case.arrays[f"out/{decode}_ids"]
    prompts, inputs = np.zeros_like(expected), None
    if case.hparams["type"] == "bi":
        inputs = case.arrays["in/inputs"]
    else:
        prompts = case.arrays[f"in/{decode}_partial_sequences"]
    end_id = model.vocab.size if options.get("never_end") else decoding.END_ID
    decodes = greedy(model, mesh, prompts, inputs, end_id)
    for row, want, prompt in zip(decodes, expected, prompts, strict=True):
        prompt_length = int(np.count_nonzero(prompt))
        start = prompt_length
        if options.get("remove_partial"):
            row, start = np.pad(row[prompt_length:], [(0, prompt_length)]), 0
            want = want.copy()
            want[len(prompt) - prompt_length :] = 0
        if "max_steps" in options:
            row = np.where(np.arange(len(row)) < start + options["max_steps"], row, 0)
        if not options.get("never_end"):
            row, want = to_the_end(row[np.newaxis])[0], to_the_end(want[np.newaxis])[0]
        np.testing.assert_array_equal(row, want)


@pytest.mark.slow
@pytest.mark.parametrize("name, decode, several", on_one_and_several(BEAMS))
def test_beam_searches(name: str, decode: str, several: bool) -> None:
    case = CASES[name]
    options = case.hparams[f"decode_{decode}"]
    model, mesh = _model(name, several)
    inputs = case.arrays["in/inputs"]
    longest = np.count_nonzero(inputs, axis=1).max()
    limit = int(longest * options.get("mult", 1.5) + options.get("const", 10.0))
    num_prefilter = 2 if "mesh_shape" in case.hparams else 0
    assert_beam_search_is_the_originals(model, mesh, case, decode, inputs, limit, num_prefilter)


def test_all_cases_are_there() -> None:
    assert (len(CASES), len(DECODES), len(BEAMS), len(CHECKPOINTS)) == (11, 11, 5, 3)
    assert len(BUCKETS) == 5


def _imported(name: str, step: str, mesh: mtf.Mesh) -> TokenModel:
    model = transformer_model(mesh, CASES[name])
    mtf.initialize(model)
    folder = unpack("checkpoints") / CASES[name].hparams["checkpoint"]
    report = InitCheckpoint(str(folder / f"model.ckpt-{step}"))(model.named_variables())
    assert report is not None
    assert not report.problems()
    assert report.matched.keys() == model.named_variables().keys()
    return model


@pytest.mark.parametrize("name, several", on_one_and_several(CHECKPOINTS))
def test_a_stored_checkpoint_gives_the_stored_logits(name: str, several: bool) -> None:
    case = CASES[name]
    mesh = mesh_for(case, several)
    logits, training, _, _ = run(_imported(name, "0", mesh), mesh, _features(case))
    _assert_logits(case, logits)
    assert_close(_loss(case, training), case.arrays["out/loss_train"], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_trained_checkpoint_gives_the_loss_after_training(name: str) -> None:
    case = CASES[name]
    mesh = mtf.Mesh(ONE_DEVICE)
    losses = case.arrays["out/train_losses"]
    model = _imported(name, str(len(losses) - 1), mesh)
    _, training, _, _ = run(model, mesh, _features(case))
    is_rounded = case.hparams.get("master_dtype") == "bfloat16"
    tolerance = BFLOAT16_CHECKPOINT_TOLERANCE if is_rounded else FLOAT32_MODEL_TOLERANCE
    assert_close(_loss(case, training), losses[-1], tolerance)


@pytest.mark.parametrize("name", BUCKETS)
def test_relative_position_buckets(name: str) -> None:
    case = BUCKETS[name]
    buckets = relative_position_bucket(case.arrays["in/relative_position"], **case.hparams)
    np.testing.assert_array_equal(buckets, case.arrays["out/bucket"])


# The third trained model keeps its variables in bfloat16.
TRAINED_CASES = {name: reference_cases("transformer")[name] for name in ("lm", "t5_1_1")}


@pytest.mark.parametrize("several", [False, True], ids=["one device", "several"])
@pytest.mark.parametrize("name", TRAINED_CASES)
def test_steps_of_adafactor(name: str, several: bool) -> None:
    case = TRAINED_CASES[name]
    mesh = mesh_for(case, several)
    model = with_weights(transformer_model(mesh, case), case)
    variables = model.named_variables()
    optimizer = optim.Adafactor(
        learning_rate=0.05, min_dim_size_to_factor=case.hparams.get("min_dim_size_to_factor", 128)
    )
    optimizer.init(variables)
    for path, slot in optimizer.named_slots().items():
        slot.initialize(seed=0, path=path)
    names = [key for key in case.with_role("in") if key in ("inputs", "targets")]
    features = on_mesh(mesh, {key: case.arrays[f"in/{key}"] for key in names})
    positions = case.arrays["in/targets"].size

    @mtf.function
    def step(features: dict[str, mtf.Tensor], number: mtf.Tensor) -> mtf.Tensor:
        def mean() -> tuple[mtf.Tensor, mtf.Tensor]:
            total = model.loss(features, training=True, key=mtf.random_key(0)).total
            return total / positions, total / positions

        (_, loss), gradients = mtf.value_and_gradients(mean, variables)
        for variable, value in optimizer.update(gradients, number).items():
            mtf.assign(variable, value)
        return loss

    expected = case.arrays["out/train_losses"]
    losses = [
        step(features, mtf.constant(mesh, number, dtype=tf.int32))
        for number in range(len(expected) - 1)
    ]
    # The embedding and the softmax are in the checkpoint only.
    folder = unpack("checkpoints") / case.hparams["checkpoint"]
    checkpoint = tf.train.load_checkpoint(str(folder / f"model.ckpt-{len(losses)}"))
    after = {key: checkpoint.get_tensor(key) for key in case.with_role("w")}
    for key, value in case.with_role("out").items():
        if key.startswith("after_training/"):
            np.testing.assert_array_equal(after[key.removeprefix("after_training/")], value)
    assert_close(np.stack(mtf.to_numpy(losses)), expected[:-1], FLOAT32_MODEL_TOLERANCE)
    for path, variable in variables.items():
        value = mtf.to_numpy(mtf.read_variable(variable))
        assert_close(value, reference_value(after, path, variables), FLOAT32_MODEL_TOLERANCE)
