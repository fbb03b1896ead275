"""Other distributions add commands and classes; folders that are not installed add nothing."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.distributions import install

_MODULES = {
    "command": """
from mtfrun.cli.command import Command

def run(flags, command):
    print("greetings")
    return 0

COMMANDS = (Command("greet", "Greets.", run, imports_tensorflow=False, subject="nothing"),)
""",
    "tiny_schedules": """
def constant(value: float = 0.5):
    return lambda step: value
""",
}


def _install(site: pathlib.Path, name: str, group: str, entry: str, module: str) -> None:
    install(site, name, {group: {entry: f"{name}.{module}"}}, _MODULES)


def _run(
    *arguments: str, path: pathlib.Path | str = "", cwd: pathlib.Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mtfrun", *arguments],
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )


_GREET = ("mtfrun.commands", "greet", "command")


def test_a_distribution_adds_a_command(tmp_path: pathlib.Path) -> None:
    _install(tmp_path / "site", "tiny", *_GREET)
    process = _run("greet", path=tmp_path / "site", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (0, "greetings\n")


@pytest.mark.parametrize("module", ["not_there", "tiny_schedules"])
def test_a_broken_entry_is_one_warning_with_the_name_of_its_distribution(
    module: str, tmp_path: pathlib.Path
) -> None:
    _install(tmp_path / "site", "tiny", *_GREET)
    _install(tmp_path / "site", "wrong", "mtfrun.commands", "other", module)
    process = _run("greet", path=tmp_path / "site", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (0, "greetings\n")
    (line,) = process.stderr.splitlines()
    assert line.startswith("mtfrun: warning: the distribution wrong has a broken entry point")


def test_a_misspelt_group_is_one_warning(tmp_path: pathlib.Path) -> None:
    _install(tmp_path / "site", "tiny", *_GREET)
    _install(tmp_path / "site", "wrong", "mtfrun.command", "other", "command")
    process = _run("greet", path=tmp_path / "site", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (0, "greetings\n")
    (line,) = process.stderr.splitlines()
    assert "the distribution wrong has entries of the unknown group mtfrun.command;" in line


def test_a_command_that_two_distributions_have_is_an_error_with_both_names(
    tmp_path: pathlib.Path,
) -> None:
    for name in ("one", "two"):
        _install(tmp_path / "site", name, "mtfrun.commands", name, "command")
    process = _run("greet", path=tmp_path / "site", cwd=tmp_path)
    assert process.returncode == 2
    assert "of one" in process.stderr and "of two" in process.stderr


@pytest.mark.parametrize("path", ["", ".", "stranger"])
def test_a_working_directory_adds_nothing(tmp_path: pathlib.Path, path: str) -> None:
    _install(tmp_path / "stranger", "tiny", *_GREET)
    path = str(tmp_path / path) if path == "stranger" else path
    process = _run("greet", path=path, cwd=tmp_path / "stranger")
    assert process.returncode == 2 and "no command 'greet'" in process.stderr


def test_a_distribution_adds_a_module_for_gin(tmp_path: pathlib.Path) -> None:
    _install(tmp_path / "site", "tiny", "mtfrun.gin", "tiny_schedules", "tiny_schedules")
    process = _run(
        *("config", "show", "--gin_file=runs/quickstart.gin"),
        *(
            "--gin.LEARNING_RATE=@tiny_schedules.constant()",
            "--gin.tiny_schedules.constant.value=0.25",
        ),
        path=tmp_path / "site",
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    assert "tiny_schedules.constant" in process.stdout and "value = 0.25" in process.stdout
