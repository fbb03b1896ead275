"""With Mesh.reproducible a run has the same bits on any number of devices and processes."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.extras.audit.ledger import LEDGER
from tests.cli.command import mtfrun

STEPS = 60
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
    # Others than dense ones take minutes to compile for 8 devices.
    *((name, 2, 4) for name in ("mixture", TWO_LEVELS, "residual network")),
]


@pytest.fixture(scope="module")
def bits(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, int], tuple[bytes, str]]:
    """A function that trains and returns the ledger, and the SHA-256 of all variables."""

    @functools.cache
    def train(name: str, processes: int, devices: int) -> tuple[bytes, str]:
        return _train(tmp_path_factory.mktemp("run") / "run", name, processes, devices)

    return train


def _train(directory: pathlib.Path, name: str, processes: int, devices: int) -> tuple[bytes, str]:
    launch = ["launch", "-n", str(processes), "--"] if processes > 1 else []
    process = mtfrun(
        *launch,
        *("train", *RUNS[name], f"--model_dir={directory}"),
        *(f"--gin.MESH_SHAPE='data:{devices}'", "--gin.LAYOUT='batch:data'"),
        *("--gin.Mesh.reproducible='data:8'", f"--gin.TRAIN_STEPS={STEPS}"),
        *("--gin.ITERATIONS_PER_LOOP=15", "--gin.OUTER_BATCH=1", "--gin.CHECKPOINT_EVERY=30"),
        *("--gin.EVAL_EVERY=None", "--gin.EVAL_AT_START=False", "--gin.Training.actions=[]"),
        "--gin.Evaluation.max_batches=1",
    )
    assert process.returncode == 0, process.stderr.decode()
    return (directory / LEDGER).read_bytes(), _digest(directory)


def _digest(directory: pathlib.Path) -> str:
    reader = tf.train.load_checkpoint(str(directory / "checkpoints" / f"ckpt-{STEPS}"))
    digest = hashlib.sha256()
    for name in sorted(reader.get_variable_to_shape_map()):
        if name.startswith(("model/", "optimizer/", "step")):
            digest.update(np.ascontiguousarray(reader.get_tensor(name)).tobytes())
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes", "devices"), CASES)
def test_devices_and_processes_change_no_bit(
    bits: Callable[[str, int, int], tuple[bytes, str]], name: str, processes: int, devices: int
) -> None:
    assert bits(name, processes, devices) == bits(name, 1, 1)


@pytest.mark.slow
def test_resuming_on_more_devices_changes_no_bit(
    bits: Callable[[str, int, int], tuple[bytes, str]], tmp_path: pathlib.Path
) -> None:
    _train(tmp_path, "dense", 1, 2)
    for file in (tmp_path / "checkpoints").glob(f"ckpt-{STEPS}*"):
        file.unlink()
    assert _train(tmp_path, "dense", 1, 4) == bits("dense", 1, 1)
