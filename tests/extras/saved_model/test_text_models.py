"""SavedModels of models of text answer as `mtfrun decode` does, byte for byte."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

import mtfrun
from tests.cli.command import TINY, TWO_STEPS, mtfrun_here, tiny_experiment, tiny_pairs_experiment
from tests.cli.test_export import assert_refused_by_a_full_disk
from tests.data.vocabularies.small_models import t5_like_model
from tests.experiment.runs.tiny_runs import files_and_params
from tests.extras.saved_model.serving import Request, decoded, exported, lines_of, responses
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.packed import hugging_face_folders

# Outputs are compared exactly, also scores.
pytestmark = pytest.mark.usefixtures("decodes_by_xla")

PROMPTS = [b"train line 1", b"", b"x" * 100, b"a\xff\xe2\x82b", "é".encode(), b"one", b"\x00"]
# More rows than a batch has, of every length.
ALL_LENGTHS = [b"q" * number for number in range(40)]
BEAMS = ["--beam_size=3", "--num_outputs=2"]
NO_EVALUATION = ["EVAL_EVERY = None", "EVAL_AT_START = False"]


def _prefix_flags(directory: pathlib.Path) -> list[str]:
    pairs = tiny_pairs_experiment(directory)
    files = [
        "--gin_file=defaults.gin",
        "--gin_file=models/lm_tiny.gin",
        "--gin_file=data/tsv_pairs.gin",
        "--gin_file=data/delimited_pairs.gin",
        "--gin_file=models/prefix_lm.gin",
    ]
    lengths = ["--gin.SEQUENCE_LENGTH=48"]
    return [*files, *(flag for flag in pairs if not flag.startswith("--gin_file")), *lengths]


def _wide_flags(directory: pathlib.Path) -> list[str]:
    """Of a model whose logits, in attention and of a tied softmax, have factors of muP."""
    return [*tiny_experiment(directory), "--gin.BASE_SIZES={'d_model': 4, 'd_ff': 8, 'd_kv': 1}"]


def _label_flags(directory: pathlib.Path) -> list[str]:
    path = directory / "labels.tsv"
    path.write_text("".join(f"text {i}\t{('no', 'yes', 'maybe')[i % 3]}\n" for i in range(60)))
    files = {split: str(path) for split in ("train", "validation")}
    return [
        "--gin_file=runs/masked_lm.gin",
        "--gin_file=data/tsv_pairs.gin",
        "--gin_file=extras/text_tasks/data/text_classification.gin",
        *TINY,
        f"--gin.TSV_FILES={files}",
        "--gin.LABELS=['no', 'yes', 'maybe']",
        *TWO_STEPS,
    ]


def _trained(flags: list[str], directory: pathlib.Path) -> pathlib.Path:
    files, params = files_and_params(flags)
    mtfrun.train(files, directory / "run", gin_params=[*params, *NO_EVALUATION])
    return directory / "run"


@pytest.mark.slow
def test_a_saved_model_of_a_language_model_answers_as_decode(tmp_path: pathlib.Path) -> None:
    flags = [*_wide_flags(tmp_path), "--gin.SEQUENCE_LENGTH=16"]
    run = _trained(flags, tmp_path)
    directory = exported(run, tmp_path / "saved")
    requests: list[Request] = [
        ("serving_default", {"prompts": PROMPTS}),
        ("decode", {"prompts": ["one"]}),
        ("decode_ids", {"ids": [[114, 0]], "lengths": [3]}),
    ]
    outputs, one, refused = responses(directory, requests)
    expected = decoded(run, tmp_path / "prompts.txt", PROMPTS)
    assert lines_of(outputs, PROMPTS) == expected
    assert one["output"][0].decode() == expected[PROMPTS.index(b"one")]["output"]
    assert "lengths must be at most" in refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags_of", "search"), [(tiny_pairs_experiment, []), (_prefix_flags, BEAMS)]
)
def test_all_kinds_of_models_answer_as_decode(
    tmp_path: pathlib.Path, flags_of: Callable[[pathlib.Path], list[str]], search: list[str]
) -> None:
    run = _trained(flags_of(tmp_path), tmp_path)
    prompts = [*PROMPTS, *ALL_LENGTHS]
    directory = exported(run, tmp_path / "saved", *search)
    ids = [list(prompt) for prompt in prompts]
    longest = max(map(len, ids))
    padded = [[b + 3 for b in row] + [0] * (longest - len(row)) for row in ids]
    by_text, by_ids = responses(
        directory,
        [
            ("decode", {"prompts": prompts}),
            ("decode_ids", {"ids": padded, "lengths": list(map(len, ids))}),
        ],
    )
    expected = decoded(run, tmp_path / "prompts.txt", prompts, *search)
    assert lines_of(by_text, prompts) == expected
    np.testing.assert_array_equal(by_ids["scores"], by_text["scores"])


@pytest.mark.slow
def test_a_run_of_several_devices_is_exported_on_one(tmp_path: pathlib.Path) -> None:
    flags = [*tiny_experiment(tmp_path), "--gin.MESH_SHAPE='data:2,model:2'"]
    run = _trained(flags, tmp_path)
    directory = exported(run, tmp_path / "saved")
    (response,) = responses(directory, [("decode", {"prompts": PROMPTS})])
    expected = decoded(run, tmp_path / "prompts.txt", PROMPTS)
    assert lines_of(response, PROMPTS) == expected


@pytest.mark.slow
def test_texts_get_labels_with_probabilities(tmp_path: pathlib.Path) -> None:
    run = _trained(_label_flags(tmp_path), tmp_path)
    directory = exported(run, tmp_path / "saved")
    prompts = [b"text 3", b"", b"z" * 90]
    inputs = {"prompts": prompts}
    decodes, classes = responses(directory, [("decode", inputs), ("classify", inputs)])
    expected = decoded(run, tmp_path / "prompts.txt", prompts)
    assert lines_of(decodes, prompts) == expected
    for labels, probabilities in zip(classes["labels"], classes["probabilities"], strict=True):
        assert sorted(labels) == [b"maybe", b"no", b"yes"]
        assert (np.diff(probabilities) <= 0).all()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    assert_refused_by_a_full_disk(language_model_run, tmp_path, "saved_model", 100_000)


SUBWORDS = [b"the quick brown fox", b"", b"train 17", b"<extra_id_0> fox", "é \t".encode()]


@pytest.mark.slow
def test_subwords_answer_as_decode(tmp_path: pathlib.Path) -> None:
    model = tmp_path / "small.model"
    model.write_bytes(t5_like_model())
    vocabulary = ["--gin_file=data/sentencepiece.gin", f"--gin.VOCABULARY_FILE='{model}'"]
    run = _trained([*tiny_pairs_experiment(tmp_path), *vocabulary], tmp_path)
    directory = exported(run, tmp_path / "saved", "--tensorflow_text", *BEAMS)
    requests: list[Request] = [("decode", {"prompts": SUBWORDS})]
    (response,) = responses(directory, requests, "tensorflow_text")
    expected = decoded(run, tmp_path / "prompts.txt", SUBWORDS, *BEAMS)
    assert lines_of(response, SUBWORDS) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "switch"])
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
    if name == "switch":
        features["inputs"] = [[9, 8, 7, 1], [6, 5, 4, 1]]
    expected_logits = run.logits(features)
    answers = run.decode([" ".join(map(str, row)) for row in prompts], decode_length=8)
    requests: list[Request] = [
        ("logits", features),
        ("decode_ids", {"ids": ids, "lengths": [len(row) for row in prompts]}),
    ]
    logits, decodes = responses(directory, requests)
    assert_close(logits["logits"], expected_logits, FLOAT32_MODEL_TOLERANCE)
    for row, lengths, answer in zip(decodes["ids"], decodes["lengths"], answers, strict=True):
        assert " ".join(map(str, row[0][: lengths[0]])) == answer.output
