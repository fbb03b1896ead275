"""Decoder-only models of pairs of texts: training, evaluation, decoding and scoring."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun.cli.main import main
from tests.cli.command import TINY
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROW = ["--gin.SEQUENCE_LENGTH=24", "--gin.INPUTS_LENGTH=4", "--gin.TARGETS_LENGTH=8"]
MODELS = {
    "prefix": ["--gin_file=models/prefix_lm.gin"],
    "causal": ["--gin.DecoderOnly.loss_on_targets_only=True"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """A function that returns the run of a kind of model, trained at its first call."""
    return functools.cache(lambda kind: _trained(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(params=["prefix", pytest.param("causal", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, runs: Callable[[str], pathlib.Path]) -> pathlib.Path:
    """The run of one kind of model in each test run, and of the other in slow tests."""
    return runs(request.param)


def _trained(kind: str, folder: pathlib.Path) -> pathlib.Path:
    """Trains a tiny model to spell digits, and returns the directory of its run."""
    (folder / "pairs.tsv").write_text("".join(f"{i}\t{word}\n" for i, word in enumerate(WORDS)))
    files = {split: str(folder / "pairs.tsv") for split in ("train", "validation")}
    _succeed(
        "train",
        "--gin_file=defaults.gin",
        "--gin_file=models/lm_tiny.gin",
        "--gin_file=data/tsv_pairs.gin",
        "--gin_file=data/delimited_pairs.gin",
        *MODELS[kind],
        *TINY,
        *ROW,
        "--gin.NUM_LAYERS=1",
        "--gin.D_MODEL=32",
        f"--gin.TSV_FILES={files}",
        "--gin.TRAIN_STEPS=150",
        "--gin.WARMUP_STEPS=10",
        "--gin.LEARNING_RATE=0.1",
        "--gin.EVAL_AT_START=False",
        "--gin.DecodedPairs.num_decodes=0",
        "--gin.Decoding.decode_length_constant=8",
        f"--model_dir={folder / 'run'}",
    )
    return folder / "run"


def _succeed(*arguments: str) -> None:
    assert main(arguments) == 0


def _answers(run: pathlib.Path, content: bytes, *flags: str) -> list[dict[str, Any]]:
    """Returns the answers to the lines of a file."""
    folder = run.parent
    (folder / "prompts").write_bytes(content)
    paths = [f"--input={folder}/prompts", f"--output={folder}/answers.jsonl"]
    _succeed("decode", f"--model_dir={run}", *paths, *flags)
    lines = (folder / "answers.jsonl").read_bytes().removesuffix(b"\n").split(b"\n")
    return [json.loads(line) for line in lines]


def _scores(run: pathlib.Path, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Returns the scores of pairs."""
    folder = run.parent
    lines = [json.dumps({"input": i, "target": t}) + "\n" for i, t in pairs]
    (folder / "scored.jsonl").write_text("".join(lines))
    paths = [f"--input={folder}/scored.jsonl", f"--output={folder}/scores.jsonl"]
    _succeed("score", f"--model_dir={run}", *paths)
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_evaluation_compares_answers_with_targets(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _succeed("eval", f"--model_dir={run}", "--gin.DecodedPairs.num_decodes=10")
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["exact_match"] == metrics["token_accuracy"] == metrics["accuracy"] == 1.0
    # The loss is that of the targets alone, and so are the bytes.
    scores = _scores(run, [(str(i), word) for i, word in enumerate(WORDS)])
    nats = -sum(score["log_likelihood"] for score in scores)
    tokens = sum(score["tokens"] for score in scores)
    num_bytes = sum(map(len, WORDS))
    assert tokens == num_bytes + len(WORDS)
    expected = [nats / tokens, nats / np.log(2) / num_bytes]
    np.testing.assert_allclose(
        [metrics["loss"], metrics["bits_per_byte"]], expected, rtol=FLOAT32_MODEL_TOLERANCE
    )


@pytest.mark.slow
def test_decoding_on_a_mesh_gives_the_same_text(run: pathlib.Path) -> None:
    content = b"1\n\n23\nx"
    alone, on_mesh = (
        _answers(run, content, "--beam_size=2", f"--gin.MESH_SHAPE='{mesh_shape}'")
        for mesh_shape in ("data:1,model:1", "data:2,model:2")
    )
    scores, mesh_scores = (
        [output.pop("score") for answer in answers for output in answer["outputs"]]
        for answers in (alone, on_mesh)
    )
    assert on_mesh == alone
    assert_close(mesh_scores, scores, FLOAT32_MODEL_TOLERANCE)


SPLIT_PAIRS = ["--gin_file=data/number_words.gin"]
PAIRS_IN_ROWS = [*SPLIT_PAIRS, "--gin_file=data/delimited_pairs.gin"]
TEXTS = ["--gin_file=data/python_docs.gin"]
LM, T5 = ["--gin_file=models/lm_tiny.gin"], ["--gin_file=models/t5.1.1.tiny.gin"]
TEXT_DATA = "--gin_param=Experiment.data=@data.LanguageModelData()"
IMAGES = ["Experiment.data=@data.ImageData()", "ImageData.source=@data.TfdsImages()"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            [*LM, *SPLIT_PAIRS],
            'DecoderOnly reads "targets" and not "inputs", and SequenceToSequenceData makes '
            '"inputs", "targets": add --gin_file=data/delimited_pairs.gin behind the file of the '
            "pairs, which puts both in one row",
        ),
        (
            [*LM, *MODELS["prefix"], *TEXTS],
            "DecoderOnly reads pairs of texts (prefix=True or loss_on_targets_only=True), which "
            "LanguageModelData does not make: change these, or use pairs and "
            "--gin_file=data/delimited_pairs.gin behind the file of the pairs",
        ),
        ([*LM, *MODELS["causal"], *TEXTS], "DecoderOnly reads pairs of texts"),
        (
            [*T5, *TEXTS],
            'EncoderDecoder reads "inputs", and LanguageModelData makes "targets", '
            '"targets_segmentation", "targets_position": add --gin_file=data/span_corruption.gin '
            "behind the file of the texts",
        ),
        (
            ["--gin_file=runs/masked_lm.gin", *TEXTS, TEXT_DATA],
            ": add --gin_file=data/masked_lm.gin behind the file of the texts",
        ),
        (
            [*T5, *PAIRS_IN_ROWS],
            'EncoderDecoder reads "inputs", and DelimitedPairsData makes "targets",',
        ),
        (
            [*LM, *PAIRS_IN_ROWS, "--gin.SEQUENCE_LENGTH=70"],
            "DelimitedPairsData: length=70 must be at least inputs_length + targets_length = 74: a "
            "pair is not divided between rows",
        ),
        (
            [*LM, *(f"--gin_param={text}" for text in IMAGES), "--gin.TfdsImages.name='digits'"],
            'DecoderOnly reads "targets", and ImageData makes "images", "labels", "weights": '
            "choose Experiment.data that has these features, or another Experiment.model",
        ),
        (
            ["--gin_file=models/resnet.gin", *TEXTS, TEXT_DATA],
            'ResNet reads "images", "labels", "weights", and LanguageModelData makes "targets",',
        ),
    ],
)
def test_data_that_the_model_does_not_read_is_refused_before_training(
    flags: list[str], expected: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--gin_file=defaults.gin", *flags, f"--model_dir={tmp_path}/run"]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mtfrun: error: ") and expected in line
    assert not (tmp_path / "run").exists()
