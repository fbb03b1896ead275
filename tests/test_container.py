"""The steps of the Dockerfile, in an empty directory in the place of an image."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence

import pytest

from tests.cli.command import environment

ROOT = pathlib.Path(__file__).parent.parent
USER = 1000
# Becomes that user, who may read all files, since Python may be in a directory of root's, and write
# its own alone.
AS_USER = [
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]


def _instructions() -> list[tuple[str, str]]:
    """Returns (name, arguments) of the Dockerfile, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, arguments) for name, _, arguments in (x.partition(" ") for x in lines)]


def _in(image: pathlib.Path, text: str) -> str:
    """Returns a text whose absolute paths are below a directory."""
    return re.sub(r"(?<![\w.*/-])/(?=source|wheels|opt|runs)", f"{image}/", text)


def _run(command: str, image: pathlib.Path, cwd: pathlib.Path, user: Sequence[str] = ()) -> str:
    """Returns what a command prints; pip asks for nothing in a network."""
    pip = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "EXTRAS": ""}
    ours = ("PYTHON", "VIRTUAL", "MTFRUN")
    inherited = {k: v for k, v in environment().items() if not k.startswith(ours)}
    programs = f"{image / 'environment/bin'}:{os.environ['PATH']}"
    home = _in(image, dict(_instructions())["ENV"].partition("=")[2]) if user else str(image)
    process = subprocess.run(
        [*user, "/bin/sh", "-ec", command],
        cwd=cwd,
        env={**inherited, **pip, "PATH": programs, "HOME": home},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def _copy(arguments: str, image: pathlib.Path, work: pathlib.Path) -> None:
    *options, source, target = arguments.split()
    destination = work if target == "." else pathlib.Path(_in(image, target))
    destination.parent.mkdir(parents=True, exist_ok=True)
    if options:  # from the first stage
        _run(f"cp -r {_in(image, source)} {destination}", image, image)
    elif source == ".":  # what is committed, or will be
        files = "git ls-files -z --cached --others --exclude-standard"
        _run(f"{files} | xargs -0 cp -P --parents -t {destination}", image, ROOT)
    else:
        _run(f"cp {ROOT / source} {destination}", image, image)


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="becomes another user"
)
def test_the_steps_make_an_installation_that_trains_as_another_user(tmp_path: pathlib.Path) -> None:
    image = tmp_path / "image"
    venv.create(image / "environment", with_pip=True)
    (packages,) = image.glob("environment/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    work = image
    for name, arguments in _instructions():
        if name == "WORKDIR":
            work = pathlib.Path(_in(image, arguments))
            work.mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            _copy(arguments, image, work)
        elif name == "RUN":
            _run(_in(image, arguments), image, work)
    named = dict(_instructions())
    assert named["USER"] == f"{USER}:{USER}" and named["ENTRYPOINT"] == '["mtfrun"]'
    code = "import mtfrun; print(mtfrun.__file__)"
    printed = _run(f"python -c '{code}'", image, work, AS_USER)
    assert pathlib.Path(printed.strip()).is_relative_to(packages)
    flags = "--gin_file=runs/quickstart.gin --gin.TRAIN_STEPS=2 --gin.Evaluation.max_batches=1"
    _run(f"mtfrun train {flags} --model_dir={work}/run", image, work, AS_USER)
    assert (work / "run/checkpoints/ckpt-2.json").stat().st_uid == USER
    owned = {path for path in image.rglob("*") if path.lstat().st_uid == USER}
    assert all(path.is_relative_to(image / "runs") for path in owned)


ENGINES = [name for name in ("docker", "podman") if shutil.which(name)]


@pytest.mark.slow
@pytest.mark.skipif(not ENGINES, reason="there is neither Docker nor Podman")
def test_an_image_is_built_and_starts() -> None:
    engine, name = ENGINES[0], "mtfrun-test"
    subprocess.run([engine, "build", "--tag", name, ROOT], check=True)
    command = [engine, "run", "--rm", name, "--version"]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    assert process.stdout.startswith("mtfrun ")


def test_workflows_call_the_programs_of_bin_alone() -> None:
    texts = [path.read_text() for path in sorted(ROOT.glob(".github/workflows/*.yml"))]
    commands = [line.strip() for text in texts for line in re.findall(r"run: (.*)", text)]
    assert commands == [
        "bin/docs",
        "bin/test",
        "bin/test --slow tests/test_wheel.py tests/test_container.py",
    ]


def test_the_base_image_has_the_python_of_the_locked_versions() -> None:
    (locked,) = re.findall(r"with, Python (\d+\.\d+)\.", (ROOT / "constraints.txt").read_text())
    images = [arguments for name, arguments in _instructions() if name == "FROM"]
    assert images == [f"python:{locked}-slim AS wheel", f"python:{locked}-slim"]
    assert sys.version_info >= tuple(map(int, locked.split(".")))
