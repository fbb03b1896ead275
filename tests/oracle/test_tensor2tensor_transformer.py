"""Both generations of Tensor2Tensor's MtfTransformer: logits, loss, gradients, greedy decodes."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_models import (
    best_of_beam,
    greedy,
    import_weights,
    layout_for,
    padded_to,
    reference_gradient,
    run,
    tensor2tensor_model,
    to_the_end,
)

CASES = {
    f"{file}/{name}": case
    for file in ("t2t_transformer_2018", "t2t_transformer_head")
    for name, case in reference_cases(file).items()
}
DECODES = [
    (name, key.removeprefix("decode_"))
    for name, case in CASES.items()
    for key, value in case.hparams.items()
    if key.startswith("decode_") and isinstance(value, dict) and "beam" not in value
]
BEAMS = [
    (name, key.removeprefix("decode_"))
    for name, case in CASES.items()
    for key, value in case.hparams.items()
    if key.startswith("decode_") and isinstance(value, dict) and "beam" in value
]

# Compiling a loop for a mesh takes long: most of them are slow tests.
DECODES_ON_MESHES = [
    pytest.param(name, decode, several, marks=[pytest.mark.slow] if slow else [])
    for name, decode in DECODES
    for several, slow in ((False, False), (True, not ("encdec" in name and "head" in name)))
]


def _features(case: ReferenceCase) -> dict[str, np.ndarray]:
    names = {name: x for name, x in case.with_role("in").items() if _is_feature(name)}
    return {name: padded_to(x, case.hparams["max_length"]) for name, x in names.items()}


def _is_feature(name: str) -> bool:
    return name.startswith(("inputs", "targets"))


def _mesh(case: ReferenceCase, several: bool) -> mtf.Mesh:
    return mtf.Mesh(*layout_for(case)) if several else mtf.Mesh(ONE_DEVICE)


@pytest.mark.parametrize("several", [False, True], ids=["one device", "several"])
@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients(name: str, several: bool, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    mesh = _mesh(case, several)
    model = tensor2tensor_model(mesh, case)
    import_weights(model, case, tmp_path)
    has_gradients = bool(case.with_role("grad"))
    logits, _, training, gradients = run(model, mesh, _features(case), has_gradients)
    expected = case.arrays["out/logits"]
    compared = np.ones(expected.shape[:2], bool)
    if "in/targets_segmentation" in case.arrays:
        # Positions of the padding behind packed rows see each other there, for all of them are
        # called position 0. They have no loss, and nothing else sees them.
        segments = case.arrays["in/targets_segmentation"]
        compared = padded_to(segments, case.hparams["max_length"]) != 0
    assert_close(logits[compared], expected[compared], FLOAT32_MODEL_TOLERANCE)
    # The original divides by the number of all positions, padding included.
    positions = logits.shape[0] * logits.shape[1]
    assert_close(training.total / positions, case.arrays["out/loss"], FLOAT32_MODEL_TOLERANCE)
    variables = model.named_variables()
    for path, gradient in gradients.items():
        expected = reference_gradient(case, path, variables)
        assert_close(gradient / positions, expected, FLOAT32_MODEL_TOLERANCE)


def _whole_batch(case: ReferenceCase, inputs: np.ndarray) -> np.ndarray:
    """Returns the inputs with empty rows and columns up to the sizes of the model."""
    whole = np.zeros([case.hparams["batch_size"], case.hparams["max_length"]], np.int32)
    whole[: inputs.shape[0], : inputs.shape[1]] = inputs
    return whole


def _decode_length(case: ReferenceCase, inputs: np.ndarray | None) -> int:
    """Returns how many ids the original makes at most."""
    if inputs is None:
        return case.hparams["max_length"]
    longest = np.count_nonzero(inputs, axis=1).max()
    multiplier = case.hparams["decode_length_multiplier"]
    return int(longest * multiplier + case.hparams["decode_length_constant"])


@pytest.mark.parametrize("name, decode, several", DECODES_ON_MESHES)
def test_greedy_decodes(name: str, decode: str, several: bool, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    mesh = _mesh(case, several)
    model = tensor2tensor_model(mesh, case)
    import_weights(model, case, tmp_path)
    expected = case.arrays[f"out/{decode}_ids"]
    given = {
        key.removeprefix(f"{decode}_"): x
        for key, x in case.with_role("in").items()
        if key in (f"{decode}_inputs", f"{decode}_targets")
    }
    prompts = np.zeros_like(expected)
    inputs, rows = None, len(expected)
    if case.hparams["vocab_inputs"] is not None:
        rows, inputs = len(given["inputs"]), _whole_batch(case, given["inputs"])
    elif given:
        (partial,) = given.values()
        prompts[: len(partial), : partial.shape[1]] = partial
    steps = _decode_length(case, inputs)
    vocabulary_size = case.arrays["out/logits"].shape[-1]
    made = greedy(model, mesh, prompts, inputs, vocabulary_size)
    np.testing.assert_array_equal(
        to_the_end(made, steps)[:rows], to_the_end(expected, steps)[:rows]
    )


@pytest.mark.parametrize(
    "name, decode, several",
    [
        pytest.param(
            *key, several, marks=[] if not several or "head/lm" in key[0] else [pytest.mark.slow]
        )
        for key in BEAMS
        for several in (False, True)
    ],
)
def test_beam_searches(name: str, decode: str, several: bool, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    options = case.hparams[f"decode_{decode}"]
    mesh = _mesh(case, several)
    model = tensor2tensor_model(mesh, case)
    import_weights(model, case, tmp_path)
    expected = case.arrays[f"out/{decode}_ids"]
    given = case.with_role("in").get(f"{decode}_inputs")
    inputs = None if given is None else _whole_batch(case, given)
    made = best_of_beam(
        model,
        mesh,
        np.zeros_like(expected),
        inputs,
        case.arrays["out/logits"].shape[-1],
        beam=options["beam"],
        alpha=options.get("alpha", 0.6),
        limit=_decode_length(case, inputs),
    )
    np.testing.assert_array_equal(made, expected)


def test_all_cases_are_there() -> None:
    assert (len(CASES), len(DECODES), len(BEAMS)) == (11, 11, 9)
