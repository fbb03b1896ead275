"""The command `bisect`, and differences that are planted in trained runs."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.rundir import RunDirectory
from mtfrun.rundir.checkpoints.checkpoint_values import CheckpointValues
from tests.cli.command import error_line, mtfrun_here, tiny_experiment
from tests.tools.auditing.runs import from_step, write_run

NORM = "decoder_stack/blocks/0/self_attention/norm"
SAVING = ["--gin.CHECKPOINT_EVERY=1", "--gin.Decoding.batch_size=7"]


def test_two_runs_are_compared(tmp_path: pathlib.Path) -> None:
    a, b = str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b"))
    c = str(write_run(tmp_path / "c", change=from_step(3, batch=5)))
    equal = mtfrun_here("bisect", a, b)
    assert equal.returncode == 0
    assert equal.stdout.decode().endswith("8 steps are equal to the bit\n")
    different = mtfrun_here("bisect", a, c)
    assert different.returncode == 5
    assert "\nthe batch of step 3 differs: 0000000000000021, and " in different.stdout.decode()
    (line,) = mtfrun_here("bisect", a, c, "--json").stdout.splitlines()
    assert json.loads(line)["difference"]["step"] == 3


def test_mistakes_are_one_line(tmp_path: pathlib.Path) -> None:
    a = str(write_run(tmp_path / "a"))
    assert "is not a directory" in error_line(mtfrun_here("bisect", a, f"{tmp_path}/none"))
    assert f"{tmp_path} has no ledger" in error_line(mtfrun_here("bisect", a, str(tmp_path)))


def _bisect(a: pathlib.Path, b: pathlib.Path, *flags: str) -> dict[str, Any]:
    process = mtfrun_here("bisect", str(a), str(b), "--json", *flags)
    assert process.returncode == 5, process.stderr.decode()
    result: dict[str, Any] = json.loads(process.stdout)
    return result


# The rate is zero in the first step.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "found", "kind", "name"),
    [
        ("--gin.SEED=1", (0, "initial values"), "randomness (seed)", "seed"),
        ("--gin.BATCH_SIZE=4", (1, "batch"), "configuration", "BATCH_SIZE"),
        ("--gin.DROPOUT_RATE=0.1", (1, "loss"), "configuration", "DROPOUT_RATE"),
        ("--gin.LEARNING_RATE=0.03", (2, "variables"), "configuration", "LEARNING_RATE"),
        (
            "--gin.Adafactor.clipping_threshold=0.5",
            (2, "variables"),
            "configuration",
            "optim.Adafactor.clipping_threshold",
        ),
        (
            "--gin.TokenLoss.z_loss=0.1",
            (1, "loss"),
            "configuration",
            "transformer.TokenLoss.z_loss",
        ),
    ],
)
def test_a_setting_that_differs_is_found(
    flag: str,
    found: tuple[int, str],
    kind: str,
    name: str,
    language_model_run: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    flags = [*tiny_experiment(tmp_path), *SAVING, flag, f"--model_dir={tmp_path}/run"]
    assert mtfrun_here("train", *flags).returncode == 0
    result = _bisect(language_model_run, tmp_path / "run")
    difference = result["difference"]
    assert (difference["step"], difference["what"]) == found
    assert (result["likely_cause"], result["causes"][0]["name"]) == (kind, name)


@pytest.mark.slow
def test_other_texts_are_found(language_model_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = [*tiny_experiment(tmp_path), *SAVING, f"--model_dir={tmp_path}/run"]
    texts = tmp_path / "train.txt"
    texts.write_text(texts.read_text().replace("fox", "cat"))
    assert mtfrun_here("train", *flags).returncode == 0
    result = _bisect(language_model_run, tmp_path / "run")
    assert (result["difference"]["what"], result["likely_cause"]) == ("batch", "data")


@pytest.mark.slow
def test_a_layer_that_computes_something_else_is_found(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = [*tiny_experiment(tmp_path), *SAVING, "--gin.RMSNorm.epsilon=0.1"]
    assert mtfrun_here("train", *flags, f"--model_dir={tmp_path}/run").returncode == 0
    recomputed = _bisect(language_model_run, tmp_path / "run", "--recompute")["recomputed"]
    assert (recomputed["step"], recomputed["variables"]) == (1, {})
    fault = recomputed["at_fault"]
    assert (fault["path"], fault["name"], fault["what"]) == (NORM, "RMSNorm", "output")
    assert "normalization.py" in fault["line"]
    assert fault["deviation"]["place"].startswith("batch ")


@pytest.mark.slow
def test_a_bit_of_a_checkpoint_is_found(run_copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_copy, other)
    path = "model/decoder_stack/blocks/0/self_attention/norm/scale"
    _flip_bit(other, 1, path)
    resumed = mtfrun_here("train", f"--gin_file={other}/config.gin", f"--model_dir={other}")
    assert resumed.returncode == 0, resumed.stderr.decode()
    result = _bisect(run_copy, other, "--recompute")
    difference = result["difference"]
    assert (difference["step"], difference["what"]) == (1, "variables")
    assert (difference["variables"], result["likely_cause"]) == ([path], "restored values")
    recomputed = result["recomputed"]
    assert (recomputed["step"], recomputed["at_fault"]) == (2, None)
    assert " at d_model 3: " in recomputed["variables"][path]


def _flip_bit(directory: pathlib.Path, step: int, path: str) -> None:
    """Writes a checkpoint with another value, and removes later ones."""
    checkpoints = RunDirectory(directory).checkpoints()
    manifest = checkpoints.manifest(step)
    assert manifest is not None
    values = CheckpointValues(directory / "checkpoints", manifest)
    arrays = {name: np.array(values[name]) for name in manifest.variables}
    arrays[path].reshape(-1).view(np.uint32)[3] ^= 1 << 20
    for file in (directory / "checkpoints").glob("ckpt-*"):
        file.unlink()
    variables = {name: tf.Variable(array) for name, array in arrays.items()}
    checkpoints.save(step, variables, metadata=manifest.metadata)
