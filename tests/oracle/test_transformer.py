"""Mesh TensorFlow's transformer package: logits, losses, gradients, greedy decodes, checkpoints."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mtfrun import decoding, mtf
from mtfrun.layers import relative_position_bucket
from mtfrun.models import Loss
from mtfrun.models.transformer.token_model import TokenModel
from mtfrun.rundir import WarmStart
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.oracle.reference_cases import FOLDER, ReferenceCase, reference_cases
from tests.oracle.reference_models import (
    best_of_beam,
    greedy,
    import_weights,
    layout_for,
    reference_gradient,
    run,
    to_the_end,
    transformer_model,
)

# Where the master copy is bfloat16 (8 bits of mantissa), the original computed the loss after
# training with the float32 values that it had not rounded yet; the checkpoint has the rounded ones.
BFLOAT16_CHECKPOINT_TOLERANCE = 2e-3

CASES = reference_cases("transformer")
DECODES = [
    (name, key.removeprefix("decode_"))
    for name, case in CASES.items()
    for key, value in case.hparams.items()
    if key.startswith("decode_") and "beam" not in value
]
BEAMS = [
    (name, key.removeprefix("decode_"))
    for name, case in CASES.items()
    for key, value in case.hparams.items()
    if key.startswith("decode_") and "beam" in value
]
BUCKETS = reference_cases("relative_buckets")
CHECKPOINTS = [name for name, case in CASES.items() if "checkpoint" in case.hparams]

# Compiling a loop for a mesh takes long: most of them are slow tests.
DECODES_ON_MESHES = [
    pytest.param(name, decode, several, marks=[pytest.mark.slow] if slow else [])
    for name, decode in DECODES
    for several, slow in (
        (False, False),
        (True, name not in ("t5_1_1", "lm_sinusoid_multiquery")),
    )
]


def _features(case: ReferenceCase) -> dict[str, np.ndarray]:
    found = {
        name: x
        for name, x in case.with_role("in").items()
        if name.startswith(("inputs", "targets"))
    }
    if case.name == "lm_prefix":
        # The original's padding sees everything, and without segments everything sees it: after
        # the targets' end a row is in its inputs again.
        targets = found["targets"]
        ends = np.cumsum(targets == 1, axis=1) - (targets == 1)
        inside = ends % 2 == 0
        inside[:, 1:] |= inside[:, :-1].copy()
        found["targets_prefix"] = inside.astype(np.int32)
    return found


def _mesh(case: ReferenceCase, several: bool) -> mtf.Mesh:
    return mtf.Mesh(*layout_for(case)) if several else mtf.Mesh(ONE_DEVICE)


def _loss(case: ReferenceCase, loss: Loss) -> np.ndarray:
    size = case.arrays["in/targets"].size
    return loss.total / case.hparams.get("loss_denominator", size)


def _assert_logits(case: ReferenceCase, logits: np.ndarray) -> None:
    """Raises unless the logits are the original's; those of padding are 0 there."""
    expected = case.arrays["out/logits_eval"]
    known = np.any(expected != 0.0, axis=-1)
    np.testing.assert_array_equal(known | (case.arrays["in/targets"] != 0), known)
    assert_close(logits[known], expected[known], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("several", [False, True], ids=["one device", "several"])
@pytest.mark.parametrize("name", CASES)
def test_logits_losses_and_gradients(name: str, several: bool, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    mesh = _mesh(case, several)
    model = transformer_model(mesh, case)
    import_weights(model, case, tmp_path)
    logits, evaluation, training, gradients = run(model, mesh, _features(case), True)
    _assert_logits(case, logits)
    assert_close(_loss(case, training), case.arrays["out/loss_train"], FLOAT32_MODEL_TOLERANCE)
    if not case.hparams.get("label_smoothing"):
        expected = case.arrays["out/loss_eval"]
        assert_close(_loss(case, evaluation), expected, FLOAT32_MODEL_TOLERANCE)
    variables = model.named_variables()
    denominator = case.hparams.get("loss_denominator", case.arrays["in/targets"].size)
    for path, gradient in gradients.items():
        expected = reference_gradient(case, path, variables)
        assert_close(gradient / denominator, expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name, decode, several", DECODES_ON_MESHES)
def test_greedy_decodes(name: str, decode: str, several: bool, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    options = case.hparams[f"decode_{decode}"]
    mesh = _mesh(case, several)
    model = transformer_model(mesh, case)
    import_weights(model, case, tmp_path)
    expected = case.arrays[f"out/{decode}_ids"]
    prompts, inputs = np.zeros_like(expected), None
    if case.hparams["type"] == "bi":
        inputs = case.arrays["in/inputs"]
    else:
        prompts = case.arrays[f"in/{decode}_partial_sequences"]
    vocabulary_size = case.arrays["out/logits_eval"].shape[-1]
    end_id = vocabulary_size if options.get("never_end") else decoding.END_ID
    made = greedy(model, mesh, prompts, inputs, vocabulary_size, end_id)
    for row, want, prompt in zip(made, expected, prompts, strict=True):
        given = np.count_nonzero(prompt)
        if options.get("remove_partial"):
            row, given = np.pad(row[given:], [0, given]), 0
            want = want.copy()
            want[len(prompt) - np.count_nonzero(prompt) :] = 0
        if "max_steps" in options:
            row = np.where(np.arange(len(row)) < given + options["max_steps"], row, 0)
        if not options.get("never_end"):
            row, want = to_the_end(row[np.newaxis])[0], to_the_end(want[np.newaxis])[0]
        np.testing.assert_array_equal(row, want)


@pytest.mark.parametrize(
    "name, decode, several",
    [
        pytest.param(
            *key, several, marks=[] if not several or "t5_1_1" in key else [pytest.mark.slow]
        )
        for key in BEAMS
        for several in (False, True)
    ],
)
def test_beam_searches(name: str, decode: str, several: bool, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    options = case.hparams[f"decode_{decode}"]
    mesh = _mesh(case, several)
    model = transformer_model(mesh, case)
    import_weights(model, case, tmp_path)
    expected = case.arrays[f"out/{decode}_ids"]
    inputs = case.arrays["in/inputs"]
    longest = np.count_nonzero(inputs, axis=1).max()
    made = best_of_beam(
        model,
        mesh,
        np.zeros_like(expected),
        inputs,
        case.arrays["out/logits_eval"].shape[-1],
        beam=options["beam"],
        alpha=options.get("alpha", 0.6),
        limit=int(longest * options.get("mult", 1.5) + options.get("const", 10.0)),
        num_prefilter=2 if "mesh_shape" in case.hparams else 0,
    )
    np.testing.assert_array_equal(made, expected)


def test_all_cases_are_there() -> None:
    assert (len(CASES), len(DECODES), len(BEAMS), len(CHECKPOINTS)) == (11, 11, 5, 3)
    assert len(BUCKETS) == 5


def _imported(name: str, step: str, mesh: mtf.Mesh) -> TokenModel:
    model = transformer_model(mesh, CASES[name])
    mtf.initialize(model)
    folder = FOLDER / CASES[name].hparams["checkpoint"]
    report = WarmStart(str(folder / f"model.ckpt-{step}"))(model.named_variables())
    assert report is not None
    assert not report.problems()
    assert report.matched.keys() == model.named_variables().keys()
    return model


@pytest.mark.parametrize("several", [False, True], ids=["one device", "several"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_stored_checkpoint_gives_the_stored_logits(name: str, several: bool) -> None:
    case = CASES[name]
    mesh = _mesh(case, several)
    logits, _, training, _ = run(_imported(name, "0", mesh), mesh, _features(case), False)
    _assert_logits(case, logits)
    assert_close(_loss(case, training), case.arrays["out/loss_train"], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_trained_checkpoint_gives_the_loss_after_training(name: str) -> None:
    case = CASES[name]
    mesh = mtf.Mesh(ONE_DEVICE)
    losses = case.arrays["out/train_losses"]
    model = _imported(name, str(len(losses) - 1), mesh)
    _, _, training, _ = run(model, mesh, _features(case), False)
    is_rounded = case.hparams.get("master_dtype") == "bfloat16"
    tolerance = BFLOAT16_CHECKPOINT_TOLERANCE if is_rounded else FLOAT32_MODEL_TOLERANCE
    assert_close(_loss(case, training), losses[-1], tolerance)


@pytest.mark.parametrize("name", BUCKETS)
def test_relative_position_buckets(name: str) -> None:
    case = BUCKETS[name]
    made = relative_position_bucket(case.arrays["in/relative_position"], **case.hparams)
    np.testing.assert_array_equal(made, case.arrays["out/bucket"])
