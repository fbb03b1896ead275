"""Several processes train, evaluate, decode and score as one does, whatever mesh they divide."""

from __future__ import annotations

import functools
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.rundir import RunDirectory
from tests.cli.command import mtfrun, mtfrun_here, succeeded
from tests.training.toy_run import curve

# Relative: of several processes to one on the same mesh, and to one device.
SAME_MESH_TOLERANCE, ONE_DEVICE_TOLERANCE = 1e-6, 1e-4

ONE_DEVICE = ["--gin.MESH_SHAPE='data:1,model:1'"]
TWO_BY_TWO = ["--gin_file=layouts/2x2.gin"]
DATA_4 = ["--gin_file=layouts/2x2.gin", "--gin.MESH_SHAPE='data:4,model:1'"]
# All axes of the batch lie across processes, and are split by its outer part first.
OUTER_2_BY_2 = ["--gin_file=layouts/moe_2d_2x2.gin"]

LM = ["--gin_file=runs/quickstart.gin", "--gin.NUM_LAYERS=1"]
MIXTURE = ["--gin_file=runs/moe_quickstart.gin", "--gin.NUM_LAYERS=1"]
DIGITS = ["--gin_file=runs/digits.gin", "--gin.WARMUP_STEPS=5", "--gin.LEARNING_RATE=0.02"]


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
    return _curves(model_dir)


def _curves(model_dir: pathlib.Path) -> dict[str, list[float]]:
    names = {"train": ("loss", "norm/gradient"), "eval": ("loss",)}
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


CASES = {
    "quickstart-2x2": (LM, TWO_BY_TWO),
    "mixture-2x2": (MIXTURE, OUTER_2_BY_2),
    "digits-4x1": (DIGITS, DATA_4),
}
STEPS = ["--gin.TRAIN_STEPS=10", "--gin.CHECKPOINT_EVERY=5", "--gin.Evaluation.max_batches=4"]


@pytest.fixture(scope="module", autouse=True)
def _compiles_as_users_do() -> Iterator[None]:
    """Lets TensorFlow rewrite graphs here too, as in the processes that are compared with this one.

    Otherwise sums are rounded differently, and a mixture sends single tokens to other experts.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


class Trained(NamedTuple):
    """A run of 10 steps with a checkpoint in the middle."""

    directory: pathlib.Path
    curves: dict[str, list[float]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Trained]:
    """A function that returns the run of a case by a number of processes; 0 for one device."""

    @functools.cache
    def run(case: str, processes: int) -> Trained:
        model, mesh = CASES[case]
        directory = tmp_path_factory.mktemp("run") / "run"
        if not processes:
            mesh = ONE_DEVICE
        return Trained(directory, _train(directory, [*model, *STEPS], mesh, max(1, processes)))

    return run


# All kinds of models by two processes; by four where both axes lie across processes.
BY_PROCESSES = [*((case, 2) for case in CASES), ("quickstart-2x2", 4), ("mixture-2x2", 4)]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "processes"), BY_PROCESSES)
def test_losses_and_gradients_are_those_of_one_process(
    trained: Callable[[str, int], Trained], case: str, processes: int
) -> None:
    several = trained(case, processes)
    _assert_equal(several.curves, trained(case, 1).curves, SAME_MESH_TOLERANCE)
    _assert_equal(several.curves, trained(case, 0).curves, ONE_DEVICE_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "processes"), [("quickstart-2x2", 2), ("mixture-2x2", 4), ("digits-4x1", 2)]
)
def test_evaluation_and_decodes_are_those_of_one_process(
    trained: Callable[[str, int], Trained], case: str, processes: int
) -> None:
    source = ["--prompt=def ", "--decode_length=16"]
    if CASES[case][0] is DIGITS:
        source = ["--input=split:test"]
    for command in (["eval"], ["decode", *source]):
        arguments = [*command, f"--model_dir={trained(case, processes).directory}"]
        several = succeeded(mtfrun("launch", "-n", str(processes), "--", *arguments))
        _assert_same_lines(several, succeeded(mtfrun_here(*arguments)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "number"), [("quickstart-2x2", 4), ("mixture-2x2", 1), ("digits-4x1", 2)]
)
def test_a_checkpoint_of_two_processes_is_continued_by_any_number(
    trained: Callable[[str, int], Trained], tmp_path: pathlib.Path, case: str, number: int
) -> None:
    directory, curves = trained(case, 2)
    shutil.copytree(directory, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("ckpt-10.*"):
        path.unlink()
    model, mesh = CASES[case]
    again = _train(tmp_path / "run", [*model, *STEPS], mesh, number)
    _assert_equal(again, curves, SAME_MESH_TOLERANCE)
    assert _position(tmp_path / "run", 10) == _position(directory, 10)


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
