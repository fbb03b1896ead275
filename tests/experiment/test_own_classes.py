"""Commands with a model, data, a measurement and an inference from outside the package."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest

from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.layouts import FLOAT32_MODEL_TOLERANCE

CONFIG = """
include "defaults.gin"

from __gin__ import dynamic_registration
from mtfrun import data
from mtfrun import experiment
from tests.experiment import own_classes

experiment.Experiment.model = @own_classes.PairsOfIds
experiment.Experiment.data = @own_classes.Counting()
own_classes.Counting.vocabulary = @data.ByteVocabulary()
experiment.Evaluation.measurements = [@own_classes.Digits]
SEQUENCE_LENGTH = 16
TRAIN_STEPS = 2
LEARNING_RATE = 1.0
WARMUP_STEPS = 1
"""
ALLOWED = "--gin_allow_imports=tests.experiment.own_classes"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns the directory of a run of two steps."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.gin").write_text(CONFIG)
    process = mtfrun_here("train", f"--gin_file={folder / 'own.gin'}", f"--model_dir={folder}/run")
    assert process.returncode == 0, process.stderr.decode()
    assert "eval step 2" in process.stderr.decode()
    return folder / "run"


def test_the_model_is_evaluated_scored_and_measured(run: pathlib.Path) -> None:
    (metrics,) = succeeded(mtfrun_here("eval", f"--model_dir={run}", ALLOWED))
    assert metrics["step"] == 2 and metrics["loss"] < math.log(384) - 5e-4
    assert 0.0 <= metrics["digits"] <= 1.0
    # The loss is the sum of the scores of all numbers, per token.
    numbers = run.parent / "numbers.jsonl"
    numbers.write_text("".join(f'{{"target": "{number}"}}\n' for number in range(100)))
    scores = succeeded(mtfrun_here("score", f"--model_dir={run}", ALLOWED, f"--input={numbers}"))
    tokens = sum(score["tokens"] for score in scores)
    assert tokens == 10 * 2 + 90 * 3
    nats = -sum(score["log_likelihood"] for score in scores)
    np.testing.assert_allclose(metrics["loss"], nats / tokens, rtol=FLOAT32_MODEL_TOLERANCE)


def test_the_model_decodes_greedily_and_with_beams(run: pathlib.Path) -> None:
    flags = [f"--model_dir={run}", ALLOWED, "--prompt=1", "--prompt=23", "--decode_length=3"]
    greedy = succeeded(mtfrun_here("decode", *flags))
    assert [answer["prompt"] for answer in greedy] == ["1", "23"]
    beams = succeeded(mtfrun_here("decode", *flags, "--beam_size=3", "--num_outputs=3"))
    for answer, best in zip(greedy, beams, strict=True):
        assert answer["finished"] or answer["output_tokens"] == 3
        assert len(best["outputs"]) == 3
        assert best["outputs"][0]["score"] >= best["outputs"][2]["score"]


def test_the_inference_makes_the_records(run: pathlib.Path) -> None:
    flags = [f"--model_dir={run}", "--gin_param=Experiment.inference = @own_classes.Lengths"]
    measured = "--gin_param=Evaluation.measurements = []"
    decode = ["decode", *flags, measured, ALLOWED, "--prompt=abc"]
    assert succeeded(mtfrun_here(*decode)) == [{"length": 3, "step": 2}]
    assert mtfrun_here(*decode, "--format=text").stdout == b"3\n"
    refused = error_line(mtfrun_here(*decode, "--beam_size=2"))
    assert "Lengths has no setting --beam_size: leave it out" in refused
    (run.parent / "pairs.tsv").write_text("a\tb\n")
    score = ["score", *flags, measured, ALLOWED, f"--input={run.parent / 'pairs.tsv'}"]
    assert "Lengths scores no pairs" in error_line(mtfrun_here(*score))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--gin_param=Experiment.data = @data.LanguageModelData()", "--gin.TEXT_FILES='x'"],
            'PairsOfIds reads "targets" and not "targets_segmentation", "targets_position", and '
            'LanguageModelData makes "targets", "targets_segmentation", "targets_position": set',
        ),
        (
            ["--gin_param=Experiment.data = 5"],
            "Experiment.data needs Data, which int is not: choose @data.LanguageModelData(),",
        ),
        (
            ["--gin_param=Experiment.inference = @experiment.Classification"],
            "Classification needs ImageModel, which PairsOfIds is not: set Experiment.inference",
        ),
        (
            [
                "--gin_param=Evaluation.measurements = [@experiment.DecodedPairs]",
                "--gin.DecodedPairs.num_decodes=3",
            ],
            "DecodedPairs.num_decodes=3 needs pairs to compare outputs with: set it to 0 or use",
        ),
        (
            [
                "--gin_param=Evaluation.measurements = [@experiment.Entropies]",
                "--gin.Entropies.orders=[2]",
            ],
            "Entropies.orders=[2] needs running text, which Counting is not: set it to []",
        ),
        (
            ["--gin_param=Evaluation.measurements = [@experiment.LabelledImages]"],
            "Evaluation.measurements: LabelledImages needs ImageData, which Counting is not:",
        ),
    ],
)
def test_parts_that_do_not_fit_are_an_error_of_one_line(
    flags: list[str], expected: str, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if "--gin.TEXT_FILES='x'" in flags:
        flags = ["--gin_file=data/text_files.gin", *flags]
    if "Classification" in flags[-1]:
        flags = [*flags, "--gin.Classification.batch_size=2"]
    config = f"--gin_file={run.parent / 'own.gin'}"
    line = error_line(mtfrun_here("train", config, *flags, f"--model_dir={tmp_path}/run"))
    assert line.startswith("mtfrun: error: " + expected)
    assert not (tmp_path / "run").exists()
