"""Training on digits has the same losses, gradients and accuracy on every mesh."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.cli.command import mtfrun_here, succeeded
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.training.toy_run import curve

STEPS = 20
# Rounding errors grow from step to step.
STEPS_TOLERANCE = 1e-3
MESHES = {
    "data 4": ["--gin.MESH_SHAPE='data:4,model:1'"],
    "data 2 x filters 2": ["--gin_file=layouts/2x2.gin"],
    "row_blocks 2 x col_blocks 2": ["--gin_file=layouts/spatial_2x2.gin"],
}


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder, in which digits are prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield


# Curves by tag, and the metrics of an evaluation.
Results = tuple[dict[str, list[float]], dict[str, Any]]


def _trained(model_dir: pathlib.Path, *mesh: str) -> Results:
    """Returns the curves of all steps, and the metrics of the evaluation."""
    flags = [
        "--gin_file=runs/digits.gin",
        *mesh,
        f"--gin.TRAIN_STEPS={STEPS}",
        "--gin.WARMUP_STEPS=5",
        "--gin.LEARNING_RATE=0.02",
        "--gin.STAGE_SIZES=[1, 1]",
        "--gin.WIDTHS=[8, 16]",
        "--gin.BATCH_SIZE=16",
        "--gin.ITERATIONS_PER_LOOP=20",
        "--gin.LOG_EVERY=1",
    ]
    process = mtfrun_here("train", *flags, f"--model_dir={model_dir}")
    assert process.returncode == 0, process.stderr.decode()
    curves = {tag: curve(str(model_dir), tag) for tag in ("loss", "norm/gradient")}
    assert all(list(points) == list(range(1, STEPS + 1)) for points in curves.values())
    (metrics,) = succeeded(mtfrun_here("eval", f"--model_dir={model_dir}"))
    return {tag: list(points.values()) for tag, points in curves.items()}, metrics


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return _trained(tmp_path_factory.mktemp("runs") / "one_device")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_training_digits_is_that_of_one_device(
    mesh: str, one_device: Results, tmp_path: pathlib.Path
) -> None:
    curves, metrics = _trained(tmp_path / "run", *MESHES[mesh])
    expected_curves, expected_metrics = one_device
    losses = expected_curves["loss"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert_close(curves["loss"], losses, STEPS_TOLERANCE)
    for tag, points in expected_curves.items():
        assert_close(curves[tag][0], points[0], FLOAT32_MODEL_TOLERANCE)
    assert metrics["accuracy"] == expected_metrics["accuracy"]
    assert metrics["top_5_accuracy"] == expected_metrics["top_5_accuracy"]
    assert_close(metrics["loss"], expected_metrics["loss"], STEPS_TOLERANCE)
