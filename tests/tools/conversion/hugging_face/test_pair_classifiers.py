"""Classifiers of pairs of texts read and compute what transformers does."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from mtfrun.data import PromptLimits, TextClassificationData
from mtfrun.experiment import Logits
from tests.cli.command import mtfrun_here, succeeded
from tests.layouts import assert_close
from tests.tools.conversion.hugging_face.imported_models import (
    LOGITS_TOLERANCE,
    SCORE_TOLERANCE,
    Imported,
    imported_folder,
    run_program,
)

# Ends between the texts.
SEPARATORS = {"bert": 1, "roberta": 2, "distilbert": 1}
LABELS = ["good", "bad", "neither"]
MESH = "data:2,model:2"
PROGRAM = pathlib.Path(__file__).with_name("transformers_encoders.py")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "roberta", "distilbert")
    ],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """An imported classifier with its tokenizer; `case` has pairs and what becomes of them."""
    folder = tmp_path_factory.mktemp("pairs") / request.param
    run_program(PROGRAM, "pairs", request.param, folder)
    return imported_folder(str(folder), folder)


def _pairs(model: Imported) -> list[str]:
    return [f"{first}\t{second}" for first, second in zip(*_texts(model), strict=True)]


def _texts(model: Imported) -> tuple[list[str], list[str]]:
    return model.case["first"].tolist(), model.case["second"].tolist()


def _separators(model: Imported) -> int:
    return SEPARATORS[model.folder.name]


def test_ids_types_and_logits_are_those_of_transformers(model: Imported) -> None:
    case = model.case
    built = model.opened(SEPARATORS=_separators(model))
    data = built.experiment.data
    assert isinstance(data, TextClassificationData)
    prompts = data.prompt_format(PromptLimits(data.length, 1))
    rows = [prompts.row(pair.encode()) for pair in _pairs(model)]
    lengths = {"inputs": data.length, "targets": data.length}
    features = prompts.features(rows, len(rows), lengths)
    mask = case["attention_mask"] > 0
    np.testing.assert_array_equal(features["inputs"][mask], case["input_ids"][mask])
    assert (features["inputs"][~mask] == prompts.padding).all()
    types = features.get("inputs_types", np.zeros_like(features["inputs"]))
    np.testing.assert_array_equal(types, case["token_type_ids"])
    features = {name: values for name, values in features.items() if name != "targets"}
    logits = Logits(built.experiment)(features)
    assert_close(logits[:, 0], case["logits"], LOGITS_TOLERANCE)


@pytest.mark.slow
def test_decode_prints_the_likeliest_label(model: Imported, tmp_path: pathlib.Path) -> None:
    (tmp_path / "pairs.txt").write_text("".join(f"{pair}\n" for pair in _pairs(model)))
    process = mtfrun_here(
        *("decode", f"--model_dir={model.run}", f"--input={tmp_path}/pairs.txt"),
        f"--gin.SEPARATORS={_separators(model)}",
    )
    answers = succeeded(process)
    logits = model.case["logits"].astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert [x["output"] for x in answers] == [LABELS[i] for i in logits.argmax(-1)]
    scores = [x["outputs"][0]["score"] for x in answers]
    np.testing.assert_allclose(scores, log_probs.max(-1), atol=SCORE_TOLERANCE)


def _files_of_pairs(model: Imported, tmp_path: pathlib.Path) -> list[str]:
    lines = [
        json.dumps({"sentence1": first, "sentence2": second, "label": i % 3})
        for i, (first, second) in enumerate(zip(*_texts(model), strict=True))
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines * 8) + "\n")
    return [
        f"--gin_file={model.run / 'config.gin'}",
        "--gin_file=data/text_pair_classification.gin",
        f"--gin.LOCAL_FILES={dict.fromkeys(('train', 'validation'), str(file))}",
        f"--gin.SEPARATORS={_separators(model)}",
        "--gin.BATCH_SIZE=8",
    ]


@pytest.mark.slow
def test_fine_tuning_on_a_mesh_is_that_on_one_device(
    model: Imported, tmp_path: pathlib.Path
) -> None:
    process = mtfrun_here(
        *("verify", *_files_of_pairs(model, tmp_path), "--gin.DROPOUT_RATE=0.1"),
        *(f"--mesh={MESH}", "--steps=1", "--cpu", "--json"),
    )
    (report,) = succeeded(process)
    assert report["equal"], report


@pytest.mark.slow
def test_a_tuned_classifier_is_evaluated_and_exported(
    model: Imported, tmp_path: pathlib.Path
) -> None:
    flags = [*_files_of_pairs(model, tmp_path), "--gin.TRAIN_STEPS=2", "--gin.NUM_DECODES=None"]
    run, folder = f"--model_dir={tmp_path}/run", tmp_path / "folder"
    assert mtfrun_here("train", *flags, run).returncode == 0
    (metrics,) = succeeded(mtfrun_here("eval", run))
    # In percent, of decoded labels; the model's own is the same, as a fraction.
    assert metrics["accuracy"] == pytest.approx(100 * metrics["token_accuracy"])
    exported = mtfrun_here("export", run, "--format=huggingface", f"--to={folder}")
    assert exported.returncode == 0 and (folder / "tokenizer.json").exists()
    refused = mtfrun_here("export", run, "--format=saved_model", f"--to={tmp_path}/saved")
    assert refused.returncode == 2 and b"a SavedModel makes no rows" in refused.stderr
