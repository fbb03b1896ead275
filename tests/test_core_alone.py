"""The core works where mtfrun/extras, their gin files and their entry points are deleted."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.reach import ROOT


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the package without its extras, as an installed distribution."""
    folder = tmp_path_factory.mktemp("core")
    ignored = shutil.ignore_patterns("extras", "__pycache__")
    shutil.copytree(ROOT / "mtfrun", folder / "mtfrun", ignore=ignored)
    info = folder / "mtfrun-0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mtfrun\nVersion: 0.0\n")
    (info / "entry_points.txt").write_text(
        "[mtfrun.exporters]\ntensorflow = mtfrun.cli.commands.export:TensorFlowExporter\n"
    )
    return folder


def _mtfrun(core: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mtfrun", *arguments],
        cwd=core.parent,
        env={**os.environ, "PYTHONPATH": str(core)},
        text=True,
        capture_output=True,
        check=False,
    )


def test_commands_of_extras_are_unknown(core: pathlib.Path) -> None:
    process = _mtfrun(core, "sweep")
    assert process.returncode == 2
    assert "no command 'sweep'" in process.stderr and "Traceback" not in process.stderr


@pytest.mark.slow
def test_the_quickstart_trains_evaluates_and_decodes(
    core: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = f"--model_dir={tmp_path}/run"
    flags = ["--gin_file=runs/quickstart.gin", "--gin.TRAIN_STEPS=5", "--gin.NUM_LAYERS=1"]
    flags += ["--gin.BATCH_SIZE=8", "--gin.Evaluation.max_batches=2"]
    for arguments in (["train", *flags], ["eval"], ["decode", "--prompt=The "]):
        process = _mtfrun(core, *arguments, run)
        assert process.returncode == 0, process.stderr
        assert "warning" not in process.stderr
