"""Encoders of masked text and classifiers compute what transformers does, and leave unchanged."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from mtfrun.experiment import Logits
from mtfrun.experiment.runs.opening import RunObjects
from mtfrun.extras.huggingface.safetensors_file import write_file
from mtfrun.extras.huggingface.tables.folder import Folder
from tests.extras.huggingface.imported_models import (
    FOLDERS,
    LOGITS_TOLERANCE,
    LOSS_TOLERANCE,
    Imported,
    assert_same_folder,
    assert_same_tensors,
    exported,
    imported_folder,
    logits_and_loss,
    models_of,
)
from tests.layouts import ONE_DEVICE, assert_close

NAMES = [
    *("bert", "bert_classifier", "bert_spans", "bert_words", "roberta", "distilbert", "modernbert"),
    *("t5_encoder", "xlm_roberta", "camembert", "bert_headless", "bert_labels"),
]
# Those with most parts that others lack.
FIRST = ["bert_labels", "bert_spans"]
QUICK = [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in NAMES]
MESH = "data:2,model:2"
PROGRAM = pathlib.Path(__file__).with_name("transformers_encoders.py")


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        *((x, ONE_DEVICE) for x in FIRST),
        *(pytest.param(x, ONE_DEVICE, marks=pytest.mark.slow) for x in NAMES if x not in FIRST),
        *(pytest.param(x, MESH, marks=pytest.mark.slow) for x in [*FIRST, "modernbert"]),
    ],
)
def test_logits_and_loss_are_those_of_transformers(
    name: str, mesh: str, import_once: Callable[[str], Imported]
) -> None:
    model = import_once(name)
    _assert_same_results(model.opened(mesh), model.case)


@pytest.mark.parametrize("name", QUICK)
def test_an_export_gives_back_every_byte(name: str, import_once: Callable[[str], Imported]) -> None:
    model = import_once(name)
    assert_same_folder(exported(model), model.folder)


def test_labels_with_a_probability_above_one_half_are_decoded(
    import_once: Callable[[str], Imported],
) -> None:
    model = import_once("bert_labels")
    built, mask = model.opened(), model.case["attention_mask"] > 0
    inputs = np.where(mask, model.case["inputs"], 0)
    rows = zip(inputs, mask, strict=True)
    prompts = [" ".join(map(str, ids[is_id])).encode() for ids, is_id in rows]
    records = built.experiment.inference.records(prompts)
    logits = Logits(built.experiment)({"inputs": inputs})[:, 0, :4]
    for record, odds in zip(records, logits.astype(np.float64), strict=True):
        names = np.array(["sport", "money, law", "art", "food"])[odds > 0]
        assert record.texts == ["; ".join(names)]
        outputs: Any = record.fields["outputs"]
        assert_close(
            outputs[0]["score"], -np.log1p(np.exp(-odds[odds > 0])).sum(), LOGITS_TOLERANCE
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert_spans", "bert_words"])
def test_a_pooler_that_no_head_reads_is_kept(name: str, tmp_path: pathlib.Path) -> None:
    """As in published models whose pretraining had one."""
    source, folder = Folder(FOLDERS / name), tmp_path / "folder"
    tensors = {x: stored.read() for x, stored in source.tensors.items()}
    width = source.config["hidden_size"]
    tensors["bert.pooler.dense.weight"] = np.ones([width, width], np.float32)
    tensors["bert.pooler.dense.bias"] = np.ones([width], np.float32)
    folder.mkdir()
    write_file(folder / "model.safetensors", tensors, source.metadata)
    (folder / "config.json").write_text(json.dumps(source.config))
    model = imported_folder(name, folder)
    _assert_same_results(model.opened(), model.case)
    assert_same_tensors(exported(model), folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", models_of(PROGRAM))
def test_other_configurations_compute_what_transformers_does(
    name: str, made_folders: Mapping[str, pathlib.Path]
) -> None:
    folder = made_folders[name]
    model = imported_folder(str(folder), folder)
    _assert_same_results(model.opened(), model.case)
    assert_same_folder(exported(model), folder)


def _assert_same_results(built: RunObjects, case: Mapping[str, np.ndarray]) -> None:
    model = built.experiment.model
    mask = case["attention_mask"] > 0
    features = {"inputs": np.where(mask, case["inputs"], model.padding_of("inputs"))}
    if "types" in case:
        features["inputs_types"] = case["types"]
    if "spans" in case:
        features["inputs_types"] = case.get("types", np.zeros_like(case["inputs"]))
        assert_close(Logits(built.experiment)(features)[..., :2], case["logits"], LOGITS_TOLERANCE)
        _, loss = logits_and_loss(built, {**features, "targets": case["spans"]})
        assert abs(loss - case["loss"][0]) < LOSS_TOLERANCE
        return
    labels = case["labels"]
    has_sets = labels.ndim == 2 and labels.dtype == np.float32
    is_classifier = labels.ndim == 1 or has_sets
    logits = Logits(built.experiment)(features)
    found = logits[:, 0] if is_classifier else logits[mask]
    expected = case["logits"] if is_classifier else case["logits"][mask]
    found = found[..., : expected.shape[-1]]
    if has_sets:
        labels = np.array([_ids_of_set(row) for row in labels])
    elif labels.dtype == np.float32:  # numbers with three decimals
        labels, found = np.round(labels * 1000).astype(np.int32), found[..., :1]
    assert_close(found, expected, LOGITS_TOLERANCE)
    targets = np.full_like(features["inputs"], -1)
    if is_classifier:
        labels = labels.reshape(len(labels), -1)
        targets[:, : labels.shape[1]] = labels
    else:
        targets = np.where(labels >= 0, labels, model.padding_of("targets"))
    _, loss = logits_and_loss(built, {**features, "targets": targets})
    assert abs(loss - case["loss"][0]) < LOSS_TOLERANCE


def _ids_of_set(has_label: np.ndarray) -> np.ndarray:
    """Returns the ids of labels, an end, and padding."""
    ids = [*np.flatnonzero(has_label), len(has_label)]
    return np.array([*ids, *[-1] * (len(has_label) + 1 - len(ids))])
