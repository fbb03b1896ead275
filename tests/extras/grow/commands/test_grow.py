"""`grow`: a larger model that begins where a run ended."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints.values import CheckpointValues
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment

ADAM = [
    "--gin_param=Training.optimizer = @optim.Adam()",
    "--gin_param=optim.Adam.learning_rate = 0.01",
]


def _grow(run: pathlib.Path, target: pathlib.Path, *words: str) -> list[str]:
    process = mtfrun_here("grow", f"--from_run={run}", f"--model_dir={target}", *words)
    assert process.returncode == 0, process.stderr.decode()
    return process.stdout.decode().splitlines()


def test_a_grown_run_begins_where_the_other_ended_and_goes_on(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    before, grown = language_model_run, tmp_path / "grown"
    lines = _grow(before, grown, "--gin.D_FF=48", "--gin.NUM_LAYERS=2", "--gin.TRAIN_STEPS=3")
    assert lines[-1] == f"{grown}: step 2, grown from {before}"
    assert lines[-2].endswith("the function is the same")
    assert lines[-3] == "optimizer: 19 slots from the run, 0 begin with 0"
    losses = []
    for run in (before, grown):
        (metrics,) = succeeded(mtfrun_here("eval", f"--model_dir={run}"))
        losses.append(metrics["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    process = mtfrun_here("train", f"--gin_file={grown}/config.gin", f"--model_dir={grown}")
    assert process.returncode == 0, process.stderr.decode()
    manifest = json.loads((grown / "checkpoints" / "ckpt-3.json").read_text())
    assert manifest["metadata"]["data_position"] == 3 * 8


@pytest.mark.slow
def test_slots_and_averages_grow(tmp_path: pathlib.Path) -> None:
    run, grown = tmp_path / "run", tmp_path / "grown"
    flags = [*tiny_experiment(tmp_path), *ADAM, "--gin.AVERAGE_DECAY=0.9"]
    flags += ["--gin.ACTIVATION_DTYPE='bfloat16'"]
    assert mtfrun_here("train", f"--model_dir={run}", *flags).returncode == 0
    lines = _grow(run, grown, "--gin.D_FF=64", "--copies")
    assert lines[-2].endswith("the function is the same")
    assert "bfloat16" in (grown / "config.gin").read_text()
    values = []
    for directory in (run, grown):
        checkpoints = pathlib.Path(directory, "checkpoints")
        manifest = Checkpoints(checkpoints).verify(2)
        values.append(CheckpointValues(checkpoints, manifest))
    old, new = values
    layer = "decoder_stack/blocks/0/feed_forward/layer"
    for path, factors in {
        f"model/{layer}/wi/kernel": 1.0,
        f"averages/{layer}/wi/kernel": 1.0,
        f"optimizer/{layer}/wi/kernel/m": 0.5,
        f"optimizer/{layer}/wi/kernel/v": 0.25,
        f"optimizer/{layer}/wo/kernel/m": 1.0,
    }.items():
        axis = 0 if "/wo/" in path else 1
        expected = np.concatenate([old[path]] * 2, axis) * factors
        np.testing.assert_allclose(new[path], expected, rtol=1e-6, err_msg=path)


@pytest.mark.slow
def test_notes_say_why_the_function_changes(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for setting, note in (
        ("MASTER_DTYPE = 'bfloat16'", "values are rounded to bfloat16"),
        ("FeedForward.activation = @mtf.gelu", "a setting that is not a size differs"),
    ):
        lines = _grow(language_model_run, tmp_path, f"--gin_param={setting}", "--dry_run")
        assert lines[-1].endswith("the function has changed")
        assert lines[-2].startswith(f"note: {note}")


@pytest.mark.slow
def test_a_vocabulary_may_have_further_ids(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    grown = tmp_path / "grown"
    lines = _grow(
        language_model_run,
        grown,
        "--gin_param=VOCABULARY = @data.ByteVocabulary()",
        "--gin_param=data.ByteVocabulary.size = 400",
        "--gin.TRAIN_STEPS=3",
    )
    assert lines[-2].endswith("the function is the same")
    assert "vocab:384;d_model:16" in lines[1]
    assert "vocab:512;d_model:16" in lines[1]
    process = mtfrun_here("train", f"--gin_file={grown}/config.gin", f"--model_dir={grown}")
    assert process.returncode == 0, process.stderr.decode()


def test_mistakes_are_one_line(language_model_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run, new = f"--from_run={language_model_run}", f"--model_dir={tmp_path / 'new'}"
    for words, problem in (
        ([new, "--gin.D_FF=64"], "grow needs the run of a smaller model"),
        ([run, "--gin.D_FF=64"], "grow needs a directory for the new run"),
        ([run, new], "grow needs what is to be larger"),
        ([run, new, "--gin.D_FF=64", "--noise=-1"], "--noise=-1: it must be at least 0"),
        ([run, f"--model_dir={language_model_run}", "--gin.D_FF=64"], "is not empty"),
        ([run, new, "--gin.D_FF=16"], "d_ff would shrink from 32 to 16: a model can only grow"),
        ([run, new, "--gin.D_FF=64", "--checkpoint=7"], "no checkpoint of step 7"),
        (
            [run, new, "--gin_param=TokenEmbedding.tied_softmax = False"],
            "the new model differs by more than sizes: it has softmax/kernel besides",
        ),
    ):
        assert problem in error_line(mtfrun_here("grow", *words))
    assert not (tmp_path / "new").exists()
