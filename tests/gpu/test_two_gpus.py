"""What must be seen on two GPUs, between which tensors move."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.gpu import machine
from tests.gpu.machine import KIND, mtfrun
from tests.gpu.test_one_gpu import RUNS, compare_operations, losses, train
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("two_gpus")]

DATA, MODEL = "data:2,model:1", "data:1,model:2"
MESHES = [DATA, MODEL]


@pytest.mark.parametrize("name", RUNS)
def test_meshes_of_two_compute_what_one_does(name: str) -> None:
    flags = ["--gin_file=layouts/moe_2d_2x2.gin"] if name == "mixture" else []
    meshes = [f"--mesh={mesh}" for mesh in MESHES]
    mtfrun(KIND, "audit", "verify", *RUNS[name], *flags, *meshes)


@pytest.mark.parametrize("mesh_shape", MESHES)
def test_all_operations_and_their_collectives_compute_what_the_cpu_does(
    mesh_shape: str, tmp_path: pathlib.Path
) -> None:
    compare_operations(mesh_shape, tmp_path)


@pytest.mark.parametrize("mesh_shape", MESHES)
def test_a_run_is_saved_by_two_and_continued_by_one(
    mesh_shape: str, tmp_path: pathlib.Path
) -> None:
    mesh = f"--gin.MESH_SHAPE='{mesh_shape}'"
    printed = train(KIND, tmp_path / "run", *RUNS["language model"], mesh, steps=5)
    assert machine.devices(2) in printed
    train(KIND, tmp_path / "run", *RUNS["language model"], steps=10)
    # And the other way round, from one to two.
    train(KIND, tmp_path / "other", *RUNS["language model"], steps=5)
    train(KIND, tmp_path / "other", *RUNS["language model"], mesh, steps=10)
    train("CPU", tmp_path / "cpu", *RUNS["language model"], steps=10)
    expected = losses(tmp_path / "cpu")
    assert_close(losses(tmp_path / "run"), expected, FLOAT32_MODEL_TOLERANCE)
    assert_close(losses(tmp_path / "other"), expected, FLOAT32_MODEL_TOLERANCE)
    metrics = [
        json.loads(mtfrun(KIND, "eval", f"--model_dir={tmp_path}/run", *flags).stdout)["loss"]
        for flags in ([], [mesh])
    ]
    assert_close(metrics[1], metrics[0], FLOAT32_MODEL_TOLERANCE)


def test_gpus_send_by_nccl() -> None:
    if KIND == "CPU":
        pytest.skip("NCCL is for GPUs")
    flags = [*RUNS["language model"], f"--mesh={DATA}", "--steps=1", "--decodes=0", "--debug"]
    process = mtfrun(KIND, "audit", "verify", *flags, variables={"NCCL_DEBUG": "INFO"})
    assert "NCCL INFO" in process.stdout + process.stderr


def test_two_processes_have_a_gpu_each(tmp_path: pathlib.Path) -> None:
    launcher = ["launch", "-n", "2", "--"]
    every_step = ["--gin.LOG_EVERY=1", "--gin.TRAIN_STEPS=5"]
    flags = [*RUNS["language model"], *every_step, f"--gin.MESH_SHAPE='{DATA}'"]
    mtfrun(KIND, *launcher, "train", *flags, f"--model_dir={tmp_path}/launched")
    train("CPU", tmp_path / "cpu", *RUNS["language model"], steps=5)
    assert_close(losses(tmp_path / "launched"), losses(tmp_path / "cpu"), FLOAT32_MODEL_TOLERANCE)
