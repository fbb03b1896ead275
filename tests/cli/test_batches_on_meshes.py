"""The rows of a batch of decoding and scoring are a multiple of the parts of the mesh."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.experiment import Experiment
from tests.cli.command import mtfrun_here, succeeded
from tests.layouts import FLOAT32_MODEL_TOLERANCE

# Four parts of a batch, and three prompts at a time.
ON_MESH = ["--gin.MESH_SHAPE='data:4,model:1'", "--gin.Decoding.batch_size=3"]


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 4), (4, 4), (5, 8), (16, 16)])
def test_rows_are_the_next_multiple_of_the_parts(batch_size: int, rows: int) -> None:
    experiment = Experiment.__new__(Experiment)
    experiment.mesh = mtf.Mesh("data:4,model:2", "batch:data;heads:model")
    assert experiment.rows_for(batch_size) == rows
    experiment.mesh = mtf.Mesh("data:4,model:2", "heads:model")
    assert experiment.rows_for(batch_size) == batch_size


@pytest.mark.slow
@pytest.mark.parametrize("command", ["decode", "score"])
def test_answers_and_scores_are_those_of_one_device(
    language_model_run: pathlib.Path, command: str, tmp_path: pathlib.Path
) -> None:
    lines = tmp_path / "pairs.tsv"
    lines.write_text("".join(f"line {i}\tthe quick\n" for i in range(11)))
    alone = ["--gin.MESH_SHAPE='data:1,model:1'", "--gin.Decoding.batch_size=3"]
    arguments = [command, f"--model_dir={language_model_run}", f"--input={lines}"]
    one, four = (succeeded(mtfrun_here(*arguments, *mesh)) for mesh in (alone, ON_MESH))
    assert len(one) == len(four) == 11
    for answer, expected in zip(four, one, strict=True):
        scores, expected_scores = (
            [fields.pop("log_likelihood")]
            if command == "score"
            else [output.pop("score") for output in fields["outputs"]]
            for fields in (answer, expected)
        )
        np.testing.assert_allclose(scores, expected_scores, rtol=FLOAT32_MODEL_TOLERANCE)
        assert answer == expected
