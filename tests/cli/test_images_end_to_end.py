"""The commands with a classifier of images."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.command import error_line, mtfrun, succeeded


def test_train_eval_and_decode(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    model_dir = f"--model_dir={tmp_path / 'run'}"
    flags = [
        "--gin_file=runs/digits.gin",
        "--gin.WIDTHS=[4, 4, 4]",
        "--gin.TRAIN_STEPS=3",
        "--gin.ITERATIONS_PER_LOOP=2",
        "--gin.MESH_SHAPE='data:2,model:2'",
    ]
    assert mtfrun("train", *flags, model_dir).returncode == 0
    (metrics,) = succeeded(mtfrun("eval", model_dir, "--gin.MESH_SHAPE='data:1,model:1'"))
    assert metrics["step"] == 3
    assert 0.0 <= metrics["accuracy"] <= metrics["top_5_accuracy"] <= 1.0
    assert metrics["loss"] > 0.0
    refused = error_line(mtfrun("decode", model_dir, "--prompt=x"))
    assert "is a classifier of images: it reads and makes no text" in refused
