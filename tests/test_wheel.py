"""The source distribution, its wheel and an editable checkout work when installed."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv

import pytest

from tests.cli.command import environment

ROOT = pathlib.Path(__file__).parent.parent
# The files of the source distribution; the link mtfrun/gin leads to gin.
SOURCES = [
    *("mtfrun", "gin", "tests", "docs", "bin", ".ci", "setup.cfg", "pyproject.toml", "MANIFEST.in"),
    *(
        ".github",
        "README.md",
        "LICENSE",
        "SECURITY.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "mkdocs.yml",
    ),
    *("constraints.txt", "Dockerfile", ".dockerignore"),
]
BUILD = "from setuptools import build_meta; print(build_meta.build_sdist('../'))"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


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


def _copy_sources(source: pathlib.Path) -> None:
    """Copies the files of a distribution to a new folder."""
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(path, source / name)


def _install(folder: pathlib.Path, *what: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of programs of a new environment with mtfrun and its dependencies.

    The dependencies come from this environment, after the packages of the new one.
    """
    new = folder / "environment"
    venv.create(new)
    (packages,) = new.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _run(*PIP, "--python", new / "bin/python", "install", "--no-deps", *what, cwd=folder)
    return new / "bin"


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns the source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("distribution")
    _copy_sources(folder / "source")
    _run(sys.executable, "-c", BUILD, cwd=folder / "source")
    shutil.rmtree(folder / "source")
    (path,) = folder.glob("mtfrun-*.tar.gz")
    return path


@pytest.fixture(scope="module")
def programs(distribution: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns the folder of programs of an environment with the wheel of the distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation"]
    _run(*PIP, "wheel", distribution, *options, "-w", folder, cwd=folder)
    (wheel,) = folder.glob("mtfrun-*.whl")
    return _install(folder, "--no-index", wheel)


@pytest.mark.slow
def test_a_checkout_that_is_installed_in_place_is_imported_from_the_directory_above(
    tmp_path: pathlib.Path,
) -> None:
    _copy_sources(tmp_path / "mtfrun")
    programs = _install(tmp_path, "--no-build-isolation", "--editable", tmp_path / "mtfrun")
    code = "import mtfrun; print(mtfrun.__file__, mtfrun.load.__name__)"
    printed = _run(programs / "python", "-c", code, cwd=tmp_path).split()
    assert printed == [str(tmp_path / "mtfrun/mtfrun/__init__.py"), "load"]
    assert "mtfrun 0" in _run(programs / "python", "-m", "mtfrun", "--version", cwd=tmp_path)
    assert "mtfrun 0" in _run(programs / "mtfrun", "--version", cwd=tmp_path)


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


@pytest.mark.slow
def test_the_source_distribution_has_what_its_tests_need(
    distribution: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with tarfile.open(distribution) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    assert {"SECURITY.md", "CHANGELOG.md", "constraints.txt", "bin/test", "LICENSE"} <= names
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert ours <= names
    (root,) = tmp_path.iterdir()
    lines = (root / "PKG-INFO").read_text().splitlines()
    urls = [line for line in lines if line.startswith("Project-URL: ")]
    assert {line.split(",")[0] for line in urls} >= {
        f"Project-URL: {name}" for name in ("Source", "Documentation", "Changelog", "Security")
    }
    tests = ["tests/test_constraints.py", "tests/rundir/test_lock.py"]
    _run(sys.executable, "-m", "pytest", "-q", *tests, cwd=root, PYTHONPATH=str(root))
