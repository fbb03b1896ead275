"""The commands with a U-Net on drawn shapes."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.command import mtfrun_here

FLAGS = [
    "--gin_file=extras/vision/runs/shapes.gin",
    *("--gin.WIDTHS=[2, 4]", "--gin.NUM_CONVOLUTIONS=1"),
    *("--gin.SIZES=[8, 12]", "--gin.BATCH_SIZE=4", "--gin.TRAIN_STEPS=2", "--gin.LOG_EVERY=1"),
    *("--gin.DrawnShapes.num_evaluated=3", "--gin.EVAL_AT_START=False", "--gin.EVAL_EVERY=2"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of two steps."""
    model_dir = tmp_path_factory.mktemp("runs") / "shapes"
    process = mtfrun_here("train", *FLAGS, f"--model_dir={model_dir}")
    assert process.returncode == 0, process.stderr.decode()
    return model_dir


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["[8, 12]", "[4, 8, 12]"])
def test_data_show_counts_the_pixels_of_classes(sizes: str, tmp_path: pathlib.Path) -> None:
    page = tmp_path / "rows.html"
    show = ["data", "show", *FLAGS, f"--gin.SIZES={sizes}", "--split=validation"]
    for flags in ([], [f"--html={page}"]):
        process = mtfrun_here(*show, *flags)
        assert process.returncode == 0, process.stderr.decode()
    assert "masks: background " in page.read_text()


@pytest.mark.slow
def test_a_report_has_the_scores(trained: pathlib.Path) -> None:
    report = trained / "report.html"
    process = mtfrun_here("report", str(trained), f"--to={report}")
    assert process.returncode == 0, process.stderr.decode()
    assert "mean_iou" in report.read_text()
