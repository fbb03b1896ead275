"""Resuming a run with another configuration or other versions says what has changed."""

from __future__ import annotations

import json
import pathlib

import pytest
import tensorflow as tf

import mtfrun as mtfrun_package
from mtfrun.checkpoints import manifest as manifests
from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory, run_versions
from mtfrun.rundir.commands import code_summary
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment

MORE = ["--gin.TRAIN_STEPS=3"]


@pytest.fixture
def flags(run_copy: pathlib.Path, tmp_path: pathlib.Path) -> list[str]:
    """The command that has trained `run_copy` for two steps, on files of the same texts."""
    return ["train", *tiny_experiment(tmp_path), f"--model_dir={run_copy}"]


def _notes(stderr: bytes) -> list[str]:
    return [line for line in stderr.decode().splitlines() if line.startswith("mtfrun: note: ")]


CHANGES = {
    "--gin.LEARNING_RATE=0.5": "optim.Product.factors [0.02, @optim.Linear",
    "--gin.BATCH_SIZE=16": "experiment.Training.batch_size 8 -> 16",
    "--gin.TrainOptions.clip_norm=1.0": "training.TrainOptions.clip_norm None -> 1.0",
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_numbers_needs_the_flag_once(
    change: str, flags: list[str], run_copy: pathlib.Path
) -> None:
    listed = CHANGES[change]
    before = (run_copy / "config.gin").read_bytes()
    line = error_line(mtfrun_here(*flags, *MORE, change))
    assert line.startswith(f"mtfrun: error: the configuration has changed since ckpt-2: {listed}")
    assert line.endswith("restore it, or resume with --accept_changes")
    assert (run_copy / "config.gin").read_bytes() == before
    assert RunDirectory(run_copy).checkpoints().latest() == 2
    process = mtfrun_here(*flags, *MORE, change, "--accept_changes")
    assert succeeded(process) == []
    assert any(listed in note for note in _notes(process.stderr))
    # Its checkpoint has the new configuration.
    again = mtfrun_here(*flags, change, "--gin.TRAIN_STEPS=4")
    assert succeeded(again) == [] and not any(listed in note for note in _notes(again.stderr))


@pytest.mark.slow
def test_what_changes_no_number_needs_nothing(flags: list[str]) -> None:
    changes = [
        *("--gin.MESH_SHAPE='data:2,model:2'", "--gin.LAYOUT='batch:data;d_ff:model'"),
        *("--gin.LOG_EVERY=2", "--gin.EVAL_EVERY=7", "--gin.CHECKPOINT_EVERY=5"),
        *("--gin.CheckpointOptions.max_to_keep=9", "--gin.ITERATIONS_PER_LOOP=2"),
        *("--gin.Stack.rematerialise=True", "--gin.Search.temperature=0.5"),
        *("--gin.Evaluation.max_batches=1", "--gin.DeviceSettings.deterministic=True"),
    ]
    process = mtfrun_here(*flags, *changes, "--gin.TRAIN_STEPS=2")
    assert succeeded(process) == [] and _notes(process.stderr) == []


def test_more_steps_are_what_was_asked_for_and_the_schedule_is_noted(flags: list[str]) -> None:
    process = mtfrun_here(*flags, *MORE)
    assert succeeded(process) == []
    assert _notes(process.stderr) == [
        "mtfrun: note: the number of steps has changed since ckpt-2, and with it "
        "optim.CosineDecay.total_steps 2 -> 3; optim.LinearWarmup.total_steps 2 -> 3"
    ]


@pytest.mark.slow
def test_more_steps_of_a_schedule_without_an_end_are_not_noted(
    flags: list[str], run_copy: pathlib.Path
) -> None:
    schedule = ["--gin_param=optim.Product.factors = [0.02, @optim.TruncatedRsqrt()]"]
    assert succeeded(mtfrun_here(*flags, *schedule, "--restart")) == []
    process = mtfrun_here(*flags, *schedule, *MORE)
    assert succeeded(process) == [] and _notes(process.stderr) == []


def test_a_change_that_makes_a_model_incompatible_is_named(flags: list[str]) -> None:
    line = error_line(mtfrun_here(*flags, "--gin.NUM_LAYERS=3", "--accept_changes"))
    assert "is incompatible" in line and "NUM_LAYERS 1 -> 3" in line


def test_other_code_needs_the_flag_and_other_versions_are_a_note(
    flags: list[str], run_copy: pathlib.Path
) -> None:
    code = {**code_summary(), "mtfrun": "0.0.9 (0123456789ab)"}
    _rewrite(run_copy, code=code)
    line = error_line(mtfrun_here(*flags, *MORE))
    assert line.startswith(
        "mtfrun: error: the code has changed since ckpt-2: mtfrun 0.0.9 (0123456789ab) -> "
    )
    assert line.endswith("restore it, or resume with --accept_changes")
    assert RunDirectory(run_copy).checkpoints().latest() == 2
    _rewrite(run_copy, code={}, versions={**run_versions(), "tensorflow": "2.1"})
    process = mtfrun_here(*flags)
    assert succeeded(process) == []
    assert _notes(process.stderr) == [
        f"mtfrun: note: the versions have changed since ckpt-2: tensorflow 2.1 -> {tf.__version__}"
    ]


@pytest.mark.slow
def test_a_checkpoint_without_a_configuration_goes_on(
    flags: list[str], run_copy: pathlib.Path
) -> None:
    _rewrite(run_copy, configuration={})
    assert succeeded(mtfrun_here(*flags, "--gin.SEED=7")) == []


def test_python_refuses_and_accepts_the_same(run_copy: pathlib.Path) -> None:
    files, model_dir = str(run_copy / "config.gin"), str(run_copy)
    with pytest.raises(InputError, match=r"Experiment\.seed 0 -> 7: restore it, or resume"):
        mtfrun_package.train(files, model_dir, gin_params=["Experiment.seed = 7"])
    params = ["Experiment.seed = 7"]
    run = mtfrun_package.train(files, model_dir, gin_params=params, accept_changes=True)
    assert run.step == 2


def _rewrite(run: pathlib.Path, **metadata: object) -> None:
    """Replaces entries of the metadata of the newest manifest, which stays valid."""
    directory = run / "checkpoints"
    manifest = manifests.read_manifest(directory, 2)
    manifest.metadata.update(metadata)
    path = manifests.manifest_path(directory, 2)
    path.write_text(manifests.manifest_text(manifest))
    assert json.loads(path.read_text())["metadata"].keys() >= metadata.keys()
