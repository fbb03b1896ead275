"""A model whose weights are not finite: exit code 3, one line, and valid JSON."""

from __future__ import annotations

import json
import pathlib
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.rundir import RunDirectory
from tests.cli.command import mtfrun_here, tiny_experiment


@pytest.fixture
def run(run_copy: pathlib.Path) -> pathlib.Path:
    """A run with finite checkpoints, the last one of step 2, and one of step 3 full of NaN."""
    checkpoints = RunDirectory(run_copy).checkpoints()
    saved = checkpoints.verify(2)
    variables = {
        path: tf.Variable(tf.zeros(spec.shape, spec.dtype))
        for path, spec in saved.variables.items()
    }
    checkpoints.restore(2, variables)
    for path, variable in variables.items():
        if path.startswith("model/"):
            variable.assign(tf.fill(variable.shape, tf.constant(np.nan, variable.dtype)))
    checkpoints.save(3, variables)
    return run_copy


def _refused(process: subprocess.CompletedProcess[bytes]) -> str:
    """Returns the one line of a command that ended with 3."""
    assert process.returncode == 3, process.stderr.decode()
    (line,) = process.stderr.decode().splitlines()
    assert line.startswith("mtfrun: error: ")
    return line


def _refuse(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


def test_eval_prints_null_and_ends_with_3(run: pathlib.Path) -> None:
    process = mtfrun_here("eval", f"--model_dir={run}", "--checkpoint=all")
    line = _refused(process)
    assert line.startswith("mtfrun: error: step 3: loss, ") and "not a number" in line
    *finite, bad = (json.loads(x, parse_constant=_refuse) for x in process.stdout.splitlines())
    assert [metrics["step"] for metrics in finite] == [1, 2]
    assert all(isinstance(x, int | float) for metrics in finite for x in metrics.values())
    assert bad["step"] == 3 and bad["loss"] is None and bad["perplexity"] is None


@pytest.mark.slow
@pytest.mark.parametrize("search", [[], ["--beam_size=3"], ["--temperature=1", "--top_k=5"]])
def test_decode_is_one_line_and_writes_nothing(
    search: list[str], run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "answers.jsonl"
    decode = ["decode", f"--model_dir={run}", "--prompt=the ", f"--output={output}", *search]
    line = _refused(mtfrun_here(*decode))
    assert "scores of outputs are infinite or not a number: so is variable " in line
    assert "--checkpoint=STEP" in line and list(tmp_path.iterdir()) == [run]


def test_score_is_one_line_and_writes_nothing(run: pathlib.Path) -> None:
    score = ["score", f"--model_dir={run}", "--input=-"]
    process = mtfrun_here(*score, stdin=b"the\tquick\n")
    assert "log-likelihoods are infinite or not a number" in _refused(process)
    assert process.stdout == b""


def test_infinite_weights_end_training_with_3(tmp_path: pathlib.Path) -> None:
    flags = tiny_experiment(tmp_path)
    sgd = ["--gin_param=Training.optimizer = @optim.Sgd()", "--gin.Sgd.learning_rate=1e39"]
    run = tmp_path / "run"
    process = mtfrun_here("train", *flags, *sgd, f"--model_dir={run}", "--gin.TRAIN_STEPS=1")
    assert process.returncode == 3, process.stderr.decode()
    last = process.stderr.decode().splitlines()[-1]
    assert "of step 1 is not finite; there is no good checkpoint yet" in last
    assert not list(run.glob("checkpoints/*"))
    record = json.loads((run / "nan_step_1.json").read_text(), parse_constant=_refuse)
    assert record["step"] == 1 and np.shape(record["rows"]["targets"]) == (8, 32)
