"""Devices, and runs on meshes of them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.experiment import Experiment
from mtfrun.experiment.runs import run_training
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment
from tests.layouts import FLOAT32_MODEL_TOLERANCE


@pytest.mark.parametrize(
    ("shape", "devices", "name"),
    [
        ("data:1,model:1", "['NONSENSE:9']", "'NONSENSE:9'; this machine has CPU:0"),
        ("data:2,model:1", "['GPU:0', 'GPU:1']", "'GPU:0'; this machine has CPU:0, CPU:1"),
    ],
)
def test_a_device_that_does_not_exist_is_one_line(
    shape: str, devices: str, name: str, tmp_path: pathlib.Path
) -> None:
    flags = [f"--gin.MESH_SHAPE='{shape}'", f"--gin.mtf.Mesh.devices={devices}"]
    run = f"--model_dir={tmp_path}/run"
    line = error_line(mtfrun_here("train", *tiny_experiment(tmp_path), *flags, run))
    assert line.startswith(f"mtfrun: error: Mesh.devices: there is no device {name}")
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_used_is_a_warning_of_train(
    run_copy: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_training, "unused_gpu", lambda: "there is a GPU")
    flags = [*tiny_experiment(tmp_path), f"--model_dir={run_copy}"]
    process = mtfrun_here("train", *flags)
    assert process.returncode == 0
    assert process.stderr.decode().splitlines()[0] == "mtfrun: warning: there is a GPU"


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
