"""Encoder-decoders compute what transformers does, and leave as they came."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from mtfrun.experiment.runs.opening import RunObjects
from tests.extras.huggingface.imported_models import (
    LOGITS_TOLERANCE,
    LOSS_TOLERANCE,
    SCORE_TOLERANCE,
    Imported,
    assert_same_folder,
    exported,
    imported_folder,
    logits_and_loss,
    models_of,
    pairs_of,
    sum_of_log_probabilities,
)
from tests.layouts import ONE_DEVICE, assert_close

NAMES = [
    *("t5_v1_0", "t5_v1_1", "switch", "umt5", "longt5", "bart", "marian", "pegasus"),
    *("mbart", "m2m_100"),
]
# Their vectors of positions count padding, in transformers too.
WITH_POSITIONS = ["bart", "marian", "pegasus", "mbart", "m2m_100"]
SLOW = ["t5_v1_0", "switch", "umt5", "longt5", "marian", "pegasus", "mbart", "m2m_100"]
QUICK = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES]
PROGRAM = pathlib.Path(__file__).with_name("transformers_encoder_decoders.py")
MESH = "data:2,model:2"
# Their layers are those of all: no layout changes what a layer computes, which tests/layers checks.
ON_MESH = ["switch", "longt5", "bart"]
NEW_TOKENS = 12


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        *((x, ONE_DEVICE) for x in NAMES if x not in SLOW),
        *(pytest.param(x, ONE_DEVICE, marks=pytest.mark.slow) for x in SLOW),
        *(pytest.param(x, MESH, marks=pytest.mark.slow) for x in ON_MESH),
    ],
)
def test_logits_and_loss_are_those_of_transformers(
    name: str, mesh: str, import_once: Callable[[str], Imported]
) -> None:
    model = import_once(name)
    _assert_same_results(model.opened(mesh), model.case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mesh"), [*((name, ONE_DEVICE) for name in NAMES), ("longt5", MESH), ("bart", MESH)]
)
def test_greedy_and_beam_search_find_what_transformers_finds(
    name: str, mesh: str, import_once: Callable[[str], Imported]
) -> None:
    model = import_once(name)
    _assert_same_searches(model.opened(mesh), model.case)


@pytest.mark.parametrize("name", QUICK)
def test_an_export_gives_back_every_byte(name: str, import_once: Callable[[str], Imported]) -> None:
    model = import_once(name)
    assert_same_folder(exported(model), model.folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", models_of(PROGRAM))
def test_other_configurations_compute_what_transformers_does(
    name: str, made_folders: Mapping[str, pathlib.Path]
) -> None:
    folder = made_folders[name]
    model = imported_folder(str(folder), folder)
    _assert_same_results(model.opened(), model.case)
    _assert_same_searches(model.opened(), model.case)
    assert_same_folder(exported(model), folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITH_POSITIONS])
def test_padding_before_the_inputs_changes_nothing(
    name: str, import_once: Callable[[str], Imported]
) -> None:
    model = import_once(name)
    case = model.case
    built = model.opened()
    padding = built.experiment.model.padding_id
    inputs, targets = pairs_of(case, padding)
    padded = np.full([len(inputs), inputs.shape[1] + 3], padding, inputs.dtype)
    for row, ids in zip(padded, inputs, strict=True):
        row[len(row) - np.count_nonzero(ids != padding) :] = ids[ids != padding]
    logits, _ = logits_and_loss(built, {"inputs": padded, "targets": targets})
    is_target = targets != padding
    found = logits[is_target][..., : case["logits"].shape[-1]]
    assert_close(found, case["logits"][is_target], LOGITS_TOLERANCE)


def _assert_same_results(built: RunObjects, case: Mapping[str, np.ndarray]) -> None:
    padding = built.experiment.model.padding_id
    inputs, targets = pairs_of(case, padding)
    logits, loss = logits_and_loss(built, {"inputs": inputs, "targets": targets})
    # Ids of padding differ from transformers' where they are -1, and have no loss.
    where = targets != padding if padding else np.ones_like(targets, bool)
    found = logits[where][..., : case["logits"].shape[-1]]
    assert_close(found, case["logits"][where], LOGITS_TOLERANCE)
    assert abs(loss - case["loss"][0]) < LOSS_TOLERANCE


def _assert_same_searches(built: RunObjects, case: Mapping[str, np.ndarray]) -> None:
    """The first id of transformers' outputs is the decoder's start."""
    vocabulary = built.experiment.data.vocabularies["targets"]
    padding = built.experiment.model.padding_of("targets")
    inputs, _ = pairs_of(case, padding)
    prompts = [vocabulary.decode(row).encode() for row in inputs]
    greedy = built.experiment.inference.with_settings({"decode_length": NEW_TOKENS})
    texts = [record.texts[0] for record in greedy.records(prompts)]
    assert texts == [vocabulary.decode(row[1:]) for row in case["greedy"]]
    if "beam3" not in case:
        return
    settings = {"decode_length": NEW_TOKENS, "beam_size": 3, "alpha": 0.0}
    records = built.experiment.inference.with_settings(settings).records(prompts)
    ours = [record.texts[0] for record in records]
    theirs = case["beam3"][:, 1:]
    if ours != [vocabulary.decode(row) for row in theirs]:
        expected = sum_of_log_probabilities(
            lambda ids: logits_and_loss(built, {"inputs": inputs, "targets": ids})[0], theirs
        )
        fields: list[Any] = [record.fields["outputs"] for record in records]
        scores = [outputs[0]["score"] for outputs in fields]
        assert_close(scores, expected, SCORE_TOLERANCE)
