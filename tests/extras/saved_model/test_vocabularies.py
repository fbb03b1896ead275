"""SavedModels of runs with subwords and of imported folders answer as mtfrun does."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

import mtfrun
from tests.cli.command import mtfrun_here, tiny_experiment, tiny_pairs_experiment
from tests.data.vocabularies.small_models import t5_like_model
from tests.experiment.runs.tiny_runs import files_and_params
from tests.extras.saved_model.serving import as_json, decoded, exported, lines_of, responses
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.packed import hugging_face_folders

PROMPTS = [b"the quick brown fox", b"", b"train 17", b"<extra_id_0> fox", "é \t".encode()]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("flags_of", [tiny_experiment, tiny_pairs_experiment])
@pytest.mark.parametrize("search", [[], ["--beam_size=3", "--num_outputs=2"]])
def test_subwords_answer_as_decode(
    tmp_path: pathlib.Path, flags_of: Callable[[pathlib.Path], list[str]], search: list[str]
) -> None:
    model = tmp_path / "small.model"
    model.write_bytes(t5_like_model())
    files, params = files_and_params(
        [
            *flags_of(tmp_path),
            "--gin_file=data/sentencepiece.gin",
            f"--gin.VOCABULARY_FILE='{model}'",
        ]
    )
    run = tmp_path / "run"
    mtfrun.train(files, run, gin_params=params, CHECKPOINT_EVERY=1)
    directory = exported(run, tmp_path / "saved", "--tensorflow_text", *search)
    request = {"instances": [as_json(prompt) for prompt in PROMPTS]}
    (response,) = responses(directory, [request], "tensorflow_text")
    expected = decoded(run, tmp_path / "prompts.txt", PROMPTS, *search)
    assert lines_of(response["predictions"], PROMPTS) == expected


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "t5_v1_1", "switch"])
def test_an_imported_folder_has_its_logits_and_decodes(tmp_path: pathlib.Path, name: str) -> None:
    run_directory = tmp_path / "run"
    process = mtfrun_here(
        "import", f"--from={hugging_face_folders() / name}", f"--model_dir={run_directory}"
    )
    assert process.returncode == 0, process.stderr.decode()
    directory = exported(run_directory, tmp_path / "saved", "--decode_length=8")
    # A beam search and lengths of another folder are its own business: ids alone are compared.
    prompts = [[5, 7, 9, 11], [6, 8], [12]]
    length = max(map(len, prompts))
    ids = [row + [0] * (length - len(row)) for row in prompts]
    run = mtfrun.load(run_directory)
    features = {"targets": [[5, 7, 9, 11], [6, 8, 3, 4]]}
    if name in ("t5_v1_1", "switch"):
        features["inputs"] = [[9, 8, 7, 1], [6, 5, 4, 1]]
    expected_logits = run.logits(features)
    answers = run.decode([" ".join(map(str, row)) for row in prompts], decode_length=8)
    requests = [
        {"signature_name": "logits", "inputs": features},
        {
            "signature_name": "decode_ids",
            "inputs": {"ids": ids, "lengths": [len(row) for row in prompts]},
        },
    ]
    logits, decodes = (response["outputs"] for response in responses(directory, requests))
    values = logits["logits"] if isinstance(logits, dict) else logits
    assert_close(np.array(values), expected_logits, FLOAT32_MODEL_TOLERANCE)
    for row, lengths, answer in zip(decodes["ids"], decodes["lengths"], answers, strict=True):
        assert " ".join(map(str, row[0][: lengths[0]])) == answer.output
