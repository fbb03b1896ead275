"""Both generations of Tensor2Tensor's MtfTransformer, imported: logits, loss, greedy decodes."""

from __future__ import annotations

import functools
import pathlib
import tempfile

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models.transformer.tokens.token_model import TokenModel
from tests.extras.mesh_tensorflow.tensor2tensor.imported_runs import import_case
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_decodes import (
    assert_beam_search_is_the_originals,
    decodes_of,
    greedy,
    on_one_and_several,
    to_the_end,
)
from tests.oracle.reference_models import layout_for, padded_to, reference_gradient, run

CASES = {
    f"{file}/{name}": case
    for file in ("t2t_transformer_2018", "t2t_transformer_head")
    for name, case in reference_cases(file).items()
}
DECODES, BEAMS = decodes_of(CASES)


def _features(case: ReferenceCase) -> dict[str, np.ndarray]:
    names = {name: x for name, x in case.with_role("in").items() if _is_feature(name)}
    return {name: padded_to(x, case.hparams["max_length"]) for name, x in names.items()}


def _is_feature(name: str) -> bool:
    return name.startswith(("inputs", "targets"))


@functools.cache
def _model(name: str, several: bool) -> tuple[TokenModel, mtf.Mesh]:
    """Returns the imported model of a case, which tests do not change."""
    case = CASES[name]
    mesh, layout = layout_for(case) if several else (ONE_DEVICE, "")
    with tempfile.TemporaryDirectory() as folder:
        opened = import_case(case, pathlib.Path(folder)).opened(mesh, LAYOUT=layout).experiment
        mtf.to_numpy(opened.model.named_variables())  # several devices read while programs run
    assert isinstance(opened.model, TokenModel)
    return opened.model, opened.mesh


@pytest.mark.parametrize("name, several", on_one_and_several(CASES))
def test_logits_loss_and_gradients(name: str, several: bool) -> None:
    case = CASES[name]
    model, mesh = _model(name, several)
    logits, training, gradients, _ = run(
        model, mesh, _features(case), with_gradients=bool(case.with_role("grad"))
    )
    expected = case.arrays["out/logits"]
    compared = np.ones(expected.shape[:2], bool)
    if "in/targets_segmentation" in case.arrays:
        # In the original, padding after packed rows attends to itself, since all of its positions
        # are 0. It has no loss, and nothing else attends to it.
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


def _padded_batch(case: ReferenceCase, inputs: np.ndarray) -> np.ndarray:
    """Returns the inputs padded to the batch size and the length of the model."""
    padded = np.zeros([case.hparams["batch_size"], case.hparams["max_length"]], np.int32)
    padded[: inputs.shape[0], : inputs.shape[1]] = inputs
    return padded


def _decode_length(case: ReferenceCase, inputs: np.ndarray | None) -> int:
    """Returns the largest number of ids that the original makes."""
    if inputs is None:
        return case.hparams["max_length"]
    longest = np.count_nonzero(inputs, axis=1).max()
    multiplier = case.hparams["decode_length_multiplier"]
    return int(longest * multiplier + case.hparams["decode_length_constant"])


@pytest.mark.parametrize("name, decode, several", on_one_and_several(DECODES))
def test_greedy_decodes(name: str, decode: str, several: bool) -> None:
    case = CASES[name]
    model, mesh = _model(name, several)
    expected = case.arrays[f"out/{decode}_ids"]
    stored = {
        key.removeprefix(f"{decode}_"): x
        for key, x in case.with_role("in").items()
        if key in (f"{decode}_inputs", f"{decode}_targets")
    }
    prompts = np.zeros_like(expected)
    inputs, rows = None, len(expected)
    if case.hparams["vocab_inputs"] is not None:
        rows, inputs = len(stored["inputs"]), _padded_batch(case, stored["inputs"])
    elif stored:
        (partial,) = stored.values()
        prompts[: len(partial), : partial.shape[1]] = partial
    steps = _decode_length(case, inputs)
    decodes = greedy(model, mesh, prompts, inputs)
    np.testing.assert_array_equal(
        to_the_end(decodes, steps)[:rows], to_the_end(expected, steps)[:rows]
    )


@pytest.mark.parametrize("name, decode, several", on_one_and_several(BEAMS))
def test_beam_searches(name: str, decode: str, several: bool) -> None:
    case = CASES[name]
    model, mesh = _model(name, several)
    stored = case.with_role("in").get(f"{decode}_inputs")
    inputs = None if stored is None else _padded_batch(case, stored)
    limit = _decode_length(case, inputs)
    assert_beam_search_is_the_originals(model, mesh, case, decode, inputs, limit)


def test_all_cases_are_there() -> None:
    assert (len(CASES), len(DECODES), len(BEAMS)) == (11, 11, 9)
