"""Several processes train, evaluate, decode and score as one does, whatever mesh they divide."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
import pytest

from mtfrun.rundir import RunDirectory
from tests.cli.command import mtfrun, mtfrun_here, succeeded, tiny_experiment
from tests.training.toy_run import curve

# Relative: of several processes to one on the same mesh, and to one device.
SAME_MESH_TOLERANCE, ONE_DEVICE_TOLERANCE = 1e-6, 1e-4

ONE_DEVICE = ["--gin.MESH_SHAPE='data:1,model:1'"]
TWO_BY_TWO = ["--gin_file=layouts/2x2.gin"]
DATA_4 = ["--gin_file=layouts/2x2.gin", "--gin.MESH_SHAPE='data:4,model:1'"]
# All axes of the batch lie across processes, and are split by its outer part first.
OUTER_2_BY_2 = ["--gin_file=layouts/moe_2d_2x2.gin"]

LM = ["--gin_file=runs/quickstart.gin"]
MIXTURE = ["--gin_file=runs/moe_quickstart.gin"]
DIGITS = ["--gin_file=runs/digits.gin", "--gin.WARMUP_STEPS=5", "--gin.LEARNING_RATE=0.02"]

# The tiny model needs few batches, and a checkpoint in the middle.
QUICK = ["--gin.Evaluation.max_batches=4", "--gin.CHECKPOINT_EVERY=2", "--gin.TRAIN_STEPS=4"]


def _train(
    model_dir: pathlib.Path, flags: Sequence[str], mesh: Sequence[str], processes: int = 1
) -> dict[str, list[float]]:
    """Trains and returns the curves of all steps."""
    arguments = ["train", *flags, *mesh, "--gin.LOG_EVERY=1", f"--model_dir={model_dir}"]
    if processes == 1:
        process = mtfrun_here(*arguments)
    else:
        process = mtfrun("launch", "-n", str(processes), "--", *arguments)
    assert process.returncode == 0, process.stderr.decode()
    names = {"train": ("loss", "grad_norm"), "eval": ("loss",)}
    return {
        f"{folder}/{tag}": list(curve(str(model_dir), tag, folder).values())
        for folder, tags in names.items()
        for tag in tags
    }


def _assert_equal(
    curves: dict[str, list[float]], expected: dict[str, list[float]], tolerance: float
) -> None:
    assert expected["train/loss"]
    assert {tag: len(points) for tag, points in curves.items()} == {
        tag: len(points) for tag, points in expected.items()
    }
    for tag, points in curves.items():
        np.testing.assert_allclose(points, expected[tag], rtol=tolerance, err_msg=tag)


def _position(model_dir: pathlib.Path, step: int) -> object:
    """Returns the position in the data, in examples, that a checkpoint holds."""
    return RunDirectory(model_dir).checkpoints().verify(step).metadata["data_position"]


def test_two_processes_train_as_one_and_one_goes_on(tmp_path: pathlib.Path) -> None:
    flags = [*tiny_experiment(tmp_path), *QUICK, "--gin.NUM_LAYERS=1"]
    curves = _train(tmp_path / "two", flags, TWO_BY_TWO, processes=2)
    _assert_equal(curves, _train(tmp_path / "one", flags, TWO_BY_TWO), SAME_MESH_TOLERANCE)
    assert [_position(tmp_path / "two", step) for step in (2, 4)] == [16, 32]
    # From their checkpoint in the middle, on one device.
    for path in (tmp_path / "two" / "checkpoints").glob("ckpt-4.*"):
        path.unlink()
    again = _train(tmp_path / "two", flags, ONE_DEVICE)
    _assert_equal(again, curves, ONE_DEVICE_TOLERANCE)
    assert _position(tmp_path / "two", 4) == 32


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        (LM, TWO_BY_TWO),
        (LM, DATA_4),
        (MIXTURE, OUTER_2_BY_2),
        (DIGITS, TWO_BY_TWO),
        (DIGITS, DATA_4),
    ],
    ids=["quickstart-2x2", "quickstart-4x1", "mixture-2x2", "digits-2x2", "digits-4x1"],
)
def test_training_evaluation_and_decodes_are_those_of_one_process(
    tmp_path: pathlib.Path, model: list[str], mesh: list[str], processes: int
) -> None:
    flags = [*model, "--gin.TRAIN_STEPS=20", "--gin.Evaluation.max_batches=4"]
    flags += ["--gin.CHECKPOINT_EVERY=10"]
    of_processes, of_one = tmp_path / "several", tmp_path / "one"
    curves = _train(of_processes, flags, mesh, processes)
    _assert_equal(curves, _train(of_one, flags, mesh), SAME_MESH_TOLERANCE)
    _assert_equal(curves, _train(tmp_path / "device", flags, ONE_DEVICE), ONE_DEVICE_TOLERANCE)

    launched = ["launch", "-n", str(processes), "--"]
    source = ["--split=test"] if model is DIGITS else ["--prompt=def ", "--decode_length=16"]
    commands = [["eval"], ["decode", *source]]
    for command in commands:
        flags_of_run = [*command, f"--model_dir={of_processes}"]
        several = succeeded(mtfrun(*launched, *flags_of_run))
        one = succeeded(mtfrun_here(*flags_of_run))
        _assert_same_lines(several, one)

    # A checkpoint of several processes is restored by any number of processes, at its position.
    for number in (1, 2, 4) if processes == 2 else ():
        copy = tmp_path / f"on {number}"
        shutil.copytree(of_processes, copy)
        for path in (copy / "checkpoints").glob("ckpt-20.*"):
            path.unlink()
        _assert_equal(_train(copy, flags, mesh, number), curves, SAME_MESH_TOLERANCE)
        assert _position(copy, 20) == _position(of_one, 20)


def _assert_same_lines(several: object, one: object) -> None:
    """Raises unless JSON values are equal, numbers within the tolerance of one mesh."""
    if isinstance(one, dict) and isinstance(several, dict):
        assert several.keys() == one.keys()
        for name, value in one.items():
            _assert_same_lines(several[name], value)
    elif isinstance(one, list) and isinstance(several, list):
        assert len(several) == len(one)
        for x, y in zip(several, one, strict=True):
            _assert_same_lines(x, y)
    elif isinstance(one, float):
        assert several == pytest.approx(one, rel=SAME_MESH_TOLERANCE, abs=SAME_MESH_TOLERANCE)
    else:
        assert several == one
