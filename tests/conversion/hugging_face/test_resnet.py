"""Residual networks of transformers: the same logits, training, and the same bytes back."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mtfrun.conversion import values_of_run
from mtfrun.rundir import RunDirectory
from tests.conversion.hugging_face.image_runs import (
    BATCH_AND_CHANNELS,
    ONE_DEVICE,
    ROWS_AND_COLUMNS,
    exported,
    imported,
    logits,
    trained_one_step,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

ORACLE = pathlib.Path(__file__).parents[2] / "oracle" / "hf"
MESHES = {
    "one device": ONE_DEVICE,
    "batch and channels": BATCH_AND_CHANNELS,
    "rows and columns": ROWS_AND_COLUMNS,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """The directories of runs by the name of their model."""
    directory = tmp_path_factory.mktemp("runs")
    return {name: imported(ORACLE / name, directory / name) for name in ("resnet", "resnet_basic")}


@pytest.mark.parametrize("name", ["resnet", "resnet_basic"])
@pytest.mark.parametrize(
    "where",
    ["one device", *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in list(MESHES)[1:])],
)
def test_logits_are_those_of_transformers(
    runs: dict[str, pathlib.Path], name: str, where: str
) -> None:
    case = np.load(ORACLE / name / "case.npz")
    images = case["pixel_values"].transpose(0, 2, 3, 1)
    if where == "batch and channels":  # an even batch: twice the first image
        images = np.concatenate([images, images[:1]])
    actual = logits(runs[name], images, MESHES[where])
    assert_close(actual[: len(case["logits"])], case["logits"], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name", ["resnet", "resnet_basic"])
def test_an_export_has_the_bytes_of_the_import(
    runs: dict[str, pathlib.Path], name: str, tmp_path: pathlib.Path
) -> None:
    folder = exported(runs[name], tmp_path / "folder")
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["config.json", "model.safetensors"]
    for file in files:
        assert (folder / file).read_bytes() == (ORACLE / name / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("where", list(MESHES)[1:])
def test_a_step_of_training_is_that_of_one_device(
    runs: dict[str, pathlib.Path], where: str, tmp_path: pathlib.Path
) -> None:
    results = [
        values_of_run(
            RunDirectory(trained_one_step(runs["resnet_basic"], tmp_path / str(i), MESHES[mesh]))
        ).values
        for i, mesh in enumerate(("one device", where))
    ]
    before = values_of_run(RunDirectory(runs["resnet_basic"])).values
    assert results[0].keys() == results[1].keys() == before.keys()
    for path, expected in results[0].items():
        assert not np.array_equal(expected, before[path]), path
        assert_close(results[1][path], expected, FLOAT32_MODEL_TOLERANCE)
