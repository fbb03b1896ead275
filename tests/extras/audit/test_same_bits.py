"""With Mesh.reproducible a run has the same bits on any number of devices and processes."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.extras.audit.ledger import LEDGER
from tests.cli.command import mtfrun

STEPS = 16
TWO_LEVELS = "mixture of two levels"
# Small, since a program for 8 devices computes each part of a batch on a device of its own.
_TOKENS = [
    *("--gin.D_MODEL=32", "--gin.D_FF=64", "--gin.NUM_LAYERS=1", "--gin.NUM_HEADS=2"),
    *("--gin.D_KV=8", "--gin.SEQUENCE_LENGTH=32", "--gin.BATCH_SIZE=16"),
]
RUNS = {
    "dense": ["--gin_file=runs/quickstart.gin", *_TOKENS],
    "mixture": [
        *("--gin_file=defaults.gin", "--gin_file=models/moe_1d_tiny.gin"),
        *("--gin_file=data/python_source.gin", *_TOKENS, "--gin.WARMUP_STEPS=10"),
        *("--gin.NUM_EXPERTS=4", "--gin.Capacity.group_size=64"),
    ],
    TWO_LEVELS: ["--gin_file=runs/moe_quickstart.gin", *_TOKENS],
    "residual network": [
        *("--gin_file=runs/digits.gin", "--gin.STAGE_SIZES=[1, 1]", "--gin.WIDTHS=[4, 8]"),
        "--gin.BATCH_SIZE=16",
    ],
}
# (processes, devices)
CASES = [
    *(("dense", *mesh) for mesh in [(1, 2), (2, 8)]),
    # Others than dense ones take long to compile.
    *((name, 2, 2) for name in ("mixture", TWO_LEVELS, "residual network")),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, int], pathlib.Path]:
    """A function that trains and returns the directory of the run."""

    @functools.cache
    def train(name: str, processes: int, devices: int) -> pathlib.Path:
        return _train(tmp_path_factory.mktemp("run") / "run", name, processes, devices)

    return train


def _train(directory: pathlib.Path, name: str, processes: int, devices: int) -> pathlib.Path:
    launch = ["launch", "-n", str(processes), "--"] if processes > 1 else []
    process = mtfrun(
        *launch,
        *("train", *RUNS[name], f"--model_dir={directory}"),
        *(f"--gin.MESH_SHAPE='data:{devices}'", "--gin.LAYOUT='batch:data'"),
        f"--gin.Mesh.reproducible='data:{8 if name == 'dense' else 4}'",
        *(f"--gin.TRAIN_STEPS={STEPS}", f"--gin.CHECKPOINT_EVERY={STEPS // 2}"),
        *("--gin.ITERATIONS_PER_LOOP=4", "--gin.OUTER_BATCH=1"),
        *("--gin.EVAL_EVERY=None", "--gin.EVAL_AT_START=False", "--gin.Training.actions=[]"),
        "--gin.Evaluation.max_batches=1",
    )
    assert process.returncode == 0, process.stderr.decode()
    return directory


def _bits(directory: pathlib.Path) -> tuple[bytes, str]:
    """Returns the ledger, and the SHA-256 of all variables."""
    reader = tf.train.load_checkpoint(str(directory / "checkpoints" / f"ckpt-{STEPS}"))
    digest = hashlib.sha256()
    for name in sorted(reader.get_variable_to_shape_map()):
        if name.startswith(("model/", "optimizer/", "step")):
            digest.update(np.ascontiguousarray(reader.get_tensor(name)).tobytes())
    return (directory / LEDGER).read_bytes(), digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes", "devices"), CASES)
def test_devices_and_processes_change_no_bit(
    trained: Callable[[str, int, int], pathlib.Path], name: str, processes: int, devices: int
) -> None:
    assert _bits(trained(name, processes, devices)) == _bits(trained(name, 1, 1))


@pytest.mark.slow
def test_resuming_on_more_devices_changes_no_bit(
    trained: Callable[[str, int, int], pathlib.Path], tmp_path: pathlib.Path
) -> None:
    run = shutil.copytree(trained("dense", 1, 2), tmp_path / "run")
    for file in (run / "checkpoints").glob(f"ckpt-{STEPS}*"):
        file.unlink()
    assert _bits(_train(run, "dense", 1, 4)) == _bits(trained("dense", 1, 1))
