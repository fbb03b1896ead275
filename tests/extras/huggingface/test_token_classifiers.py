"""Classifiers of words and of pairs of texts."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from mtfrun.data import PromptLimits
from mtfrun.experiment import Logits
from mtfrun.extras.text_tasks import TextClassificationData, TokenClassificationData
from tests.cli.command import mtfrun_here, succeeded
from tests.extras.huggingface.imported_models import (
    LOGITS_TOLERANCE,
    SCORE_TOLERANCE,
    Imported,
    imported_folder,
    run_program,
)
from tests.layouts import assert_close

LABELS = ["good", "bad", "neither"]
PROGRAM = pathlib.Path(__file__).with_name("transformers_encoders.py")


@pytest.fixture(
    scope="module",
    params=[
        "roberta",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "distilbert")),
    ],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """An imported model with its tokenizer; `case` has words and what becomes of them."""
    folder = tmp_path_factory.mktemp("words") / request.param
    run_program(PROGRAM, "words", request.param, folder)
    return imported_folder(str(folder), folder)


def _first_ids(model: Imported) -> np.ndarray:
    """Returns bool [rows, length]: whether a word begins there."""
    words = model.case["words"]
    before = np.pad(words[:, :-1], [(0, 0), (1, 0)], constant_values=-1)
    return np.asarray((words >= 0) & (words != before))


@pytest.mark.slow
def test_ids_and_logits_are_those_of_transformers(model: Imported) -> None:
    case = model.case
    built = model.opened()
    data = built.experiment.data
    assert isinstance(data, TokenClassificationData)
    prompts = data.prompt_format(PromptLimits(data.length, 1))
    rows = [prompts.row(text.encode()) for text in case["texts"].tolist()]
    lengths = {"inputs": data.length, "targets": data.length}
    features = prompts.features(rows, len(rows), lengths)
    mask = case["attention_mask"] > 0
    np.testing.assert_array_equal(features["inputs"][mask], case["input_ids"][mask])
    # What is to be predicted.
    np.testing.assert_array_equal(features["targets"] == -1, _first_ids(model))
    logits = Logits(built.experiment)({"inputs": features["inputs"]})
    assert_close(logits[mask], case["logits"][mask], LOGITS_TOLERANCE)


def _log_probs(model: Imported) -> np.ndarray:
    logits = model.case["logits"].astype(np.float64)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["roberta"], indirect=True)
def test_words_get_their_likeliest_labels_and_the_score_of_all(
    model: Imported, tmp_path: pathlib.Path
) -> None:
    texts, run = model.case["texts"].tolist(), f"--model_dir={model.run}"
    labels = [[(i + row) % 3 for i in range(len(x.split()))] for row, x in enumerate(texts)]
    names = [" ".join(LABELS[i] for i in of_text) for of_text in labels]
    pairs = "".join(f"{text}\t{name}\n" for text, name in zip(texts, names, strict=True))
    (tmp_path / "words.txt").write_text("".join(f"{text}\n" for text in texts))
    (tmp_path / "pairs.tsv").write_text(pairs)
    answers = succeeded(mtfrun_here("decode", run, f"--input={tmp_path}/words.txt"))
    scores = succeeded(mtfrun_here("score", run, f"--input={tmp_path}/pairs.tsv"))
    for row, is_first in enumerate(_first_ids(model)):
        log_probs = _log_probs(model)[row, is_first]
        assert answers[row]["output"].split() == [LABELS[i] for i in log_probs.argmax(-1)]
        score = answers[row]["outputs"][0]["score"]
        assert abs(score - log_probs.max(-1).sum()) < 10 * SCORE_TOLERANCE
        expected = log_probs[np.arange(len(log_probs)), labels[row][: len(log_probs)]]
        assert scores[row]["tokens"] == len(log_probs)
        assert abs(scores[row]["log_likelihood"] - expected.sum()) < 10 * SCORE_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("model", ["roberta"], indirect=True)
def test_a_tuned_model_is_evaluated_and_exported(model: Imported, tmp_path: pathlib.Path) -> None:
    file, run = tmp_path / "words.jsonl", f"--model_dir={tmp_path}/run"
    texts = [text.split() for text in model.case["texts"].tolist()]
    rows = [{"tokens": words, "ner": [i % 3 for i in range(len(words))]} for words in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    process = mtfrun_here(
        *("train", f"--gin_file={model.run / 'config.gin'}", run),
        f"--gin.LOCAL_FILES={dict.fromkeys(('train', 'validation'), str(file))}",
        *("--gin.BATCH_SIZE=4", "--gin.TRAIN_STEPS=2"),
    )
    assert process.returncode == 0, process.stderr.decode()
    (metrics,) = succeeded(mtfrun_here("eval", run))
    assert 0 <= metrics["accuracy"] <= 1 and metrics["entity_f1"] == 0
    exported = mtfrun_here("export", run, "--format=huggingface", f"--to={tmp_path}/folder")
    assert exported.returncode == 0, exported.stderr.decode()
    refused = mtfrun_here("export", run, "--format=saved_model", f"--to={tmp_path}/saved")
    assert refused.returncode == 2 and b"a SavedModel makes no rows" in refused.stderr


# Ends between the texts.
SEPARATORS = {"bert": 1, "roberta": 2, "distilbert": 1}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "roberta", "distilbert")
    ],
)
def pair_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Imported:
    """An imported classifier with its tokenizer; `case` has pairs and what becomes of them."""
    folder = tmp_path_factory.mktemp("pairs") / request.param
    run_program(PROGRAM, "pairs", request.param, folder)
    return imported_folder(str(folder), folder)


def _pairs(pair_model: Imported) -> list[tuple[str, str]]:
    texts = (pair_model.case[name].tolist() for name in ("first", "second"))
    return list(zip(*texts, strict=True))


def _separators(pair_model: Imported) -> int:
    return SEPARATORS[pair_model.folder.name]


def test_ids_types_and_logits_are_those_of_transformers(pair_model: Imported) -> None:
    case = pair_model.case
    built = pair_model.opened(SEPARATORS=_separators(pair_model))
    data = built.experiment.data
    assert isinstance(data, TextClassificationData)
    prompts = data.prompt_format(PromptLimits(data.length, 1))
    rows = [prompts.row("\t".join(pair).encode()) for pair in _pairs(pair_model)]
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
@pytest.mark.parametrize("pair_model", ["bert"], indirect=True)
def test_decode_prints_the_likeliest_label(pair_model: Imported, tmp_path: pathlib.Path) -> None:
    (tmp_path / "pairs.txt").write_text("".join("\t".join(x) + "\n" for x in _pairs(pair_model)))
    process = mtfrun_here(
        *("decode", f"--model_dir={pair_model.run}", f"--input={tmp_path}/pairs.txt"),
        f"--gin.SEPARATORS={_separators(pair_model)}",
    )
    answers, log_probs = succeeded(process), _log_probs(pair_model)
    assert [x["output"] for x in answers] == [LABELS[i] for i in log_probs.argmax(-1)]
    scores = [x["outputs"][0]["score"] for x in answers]
    np.testing.assert_allclose(scores, log_probs.max(-1), atol=SCORE_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("pair_model", ["bert"], indirect=True)
def test_a_tuned_classifier_is_evaluated_and_exported(
    pair_model: Imported, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    lines = [
        json.dumps({"sentence1": first, "sentence2": second, "label": i % 3})
        for i, (first, second) in enumerate(_pairs(pair_model))
    ]
    file.write_text("\n".join(lines * 8) + "\n")
    flags = [
        f"--gin_file={pair_model.run / 'config.gin'}",
        "--gin_file=extras/text_tasks/data/text_pair_classification.gin",
        f"--gin.LOCAL_FILES={dict.fromkeys(('train', 'validation'), str(file))}",
        f"--gin.SEPARATORS={_separators(pair_model)}",
        *("--gin.BATCH_SIZE=8", "--gin.TRAIN_STEPS=2", "--gin.NUM_DECODES=None"),
    ]
    run, folder = f"--model_dir={tmp_path}/run", tmp_path / "folder"
    assert mtfrun_here("train", *flags, run).returncode == 0
    (metrics,) = succeeded(mtfrun_here("eval", run))
    # In percent, of decoded labels; the model's own is the same, as a fraction.
    assert metrics["accuracy"] == pytest.approx(100 * metrics["token_accuracy"])
    exported = mtfrun_here("export", run, "--format=huggingface", f"--to={folder}")
    assert exported.returncode == 0 and (folder / "tokenizer.json").exists()
