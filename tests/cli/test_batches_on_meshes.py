"""Decoding, scoring and classifying take as many rows at a time as a mesh needs at least."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.experiment import Experiment
from tests.cli.command import mtfrun_here, succeeded, tiny_experiment
from tests.layouts import FLOAT32_MODEL_TOLERANCE

# Eight parts of a batch, and three prompts at a time.
ON_MESH = ["--gin.MESH_SHAPE='data:8,model:1'", "--gin.Decoding.batch_size=3"]


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 4), (4, 4), (5, 8), (16, 16)])
def test_rows_are_the_next_multiple_of_the_parts(batch_size: int, rows: int) -> None:
    experiment = Experiment.__new__(Experiment)
    experiment.mesh = mtf.Mesh("data:4,model:2", "batch:data;heads:model")
    assert experiment.rows_for(batch_size) == rows
    experiment.mesh = mtf.Mesh("data:4,model:2", "heads:model")
    assert experiment.rows_for(batch_size) == batch_size


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that was trained on the mesh."""
    flags = tiny_experiment(tmp_path_factory.mktemp("texts"))
    run = str(tmp_path_factory.mktemp("runs") / "run")
    process = mtfrun_here("train", *flags, *ON_MESH, f"--model_dir={run}")
    assert process.returncode == 0, process.stderr.decode()
    return run


def test_answers_and_scores_are_those_of_one_device(trained: str, tmp_path: pathlib.Path) -> None:
    lines = tmp_path / "pairs.tsv"
    lines.write_text("".join(f"line {i}\tthe quick\n" for i in range(11)))
    alone = ["--gin.MESH_SHAPE='data:1,model:1'", "--gin.Decoding.batch_size=3"]
    for command in ("decode", "score"):
        arguments = [command, f"--model_dir={trained}", f"--input={lines}"]
        one, eight = (succeeded(mtfrun_here(*arguments, *mesh)) for mesh in (alone, ON_MESH))
        assert len(one) == len(eight) == 11
        for answer, expected in zip(eight, one, strict=True):
            numbers = [
                fields.pop("log_likelihood")
                if command == "score"
                else [output.pop("score") for output in fields["outputs"]]
                for fields in (answer, expected)
            ]
            np.testing.assert_allclose(*numbers, rtol=FLOAT32_MODEL_TOLERANCE)
            assert answer == expected
