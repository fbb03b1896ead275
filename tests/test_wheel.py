"""The wheel, installed outside the checkout, trains the quickstart."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

from tests.cli.command import environment

ROOT = pathlib.Path(__file__).parent.parent
# What a wheel is made of; the link mtfrun/gin leads to gin.
SOURCES = ["mtfrun", "gin", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
# Built with what this environment has, else with what pip takes from the package index.
BUILD_TOOLS = all(importlib.util.find_spec(name) for name in ("setuptools", "wheel"))


def _run(*command: str | pathlib.Path, cwd: pathlib.Path, **variables: str) -> str:
    """Returns what a command prints; without the paths of modules that this process has."""
    inherited = {k: v for k, v in environment().items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    process = subprocess.run(
        command,
        cwd=cwd,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns the folder of programs of an environment with the wheel and its dependencies.

    The dependencies are those of this environment, behind the new one's own packages.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(path, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    isolation = ["--no-build-isolation"] * BUILD_TOOLS
    _run(*pip, "wheel", source, "--no-deps", *isolation, "-w", folder, cwd=folder)
    (wheel,) = folder.glob("mtfrun-*.whl")
    shutil.rmtree(source)

    new = folder / "environment"
    venv.create(new)
    python = new / "bin/python"
    _run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = new.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return new / "bin"


@pytest.mark.slow
def test_the_wheel_trains_outside_the_checkout(
    programs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    code = "import mtfrun, mtfrun.configuration.files as files; print(files.SHIPPED)"
    shipped = _run(programs / "python", "-c", code, cwd=tmp_path).strip()
    assert pathlib.Path(shipped).is_relative_to(programs.parent)
    names = {os.path.relpath(path, ROOT / "gin") for path in (ROOT / "gin").rglob("*.gin")}
    assert {os.path.relpath(path, shipped) for path in pathlib.Path(shipped).rglob("*.gin")} == (
        names
    )
    _run(
        programs / "mtfrun",
        "train",
        "--gin_file=runs/quickstart.gin",
        "--gin.TRAIN_STEPS=5",
        "--gin.Evaluation.max_batches=2",
        "--model_dir=run",
        cwd=tmp_path,
        TFDS_DATA_DIR=str(tmp_path / "data"),
    )
    assert (tmp_path / "run/checkpoints/ckpt-5.json").exists()
