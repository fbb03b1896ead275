"""constraints.txt has the tested version of everything that setup.cfg asks for."""

from __future__ import annotations

import configparser
import pathlib
import shutil
import subprocess

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.constraints import PATH, installed_versions

# Extras for accelerators and documentation; the tests run without them.
WITHOUT_TESTS = ("gpu", "profile", "docs")


def _requirements() -> list[Requirement]:
    """Returns the requirements in setup.cfg, without extras that the tests do not need."""
    parser = configparser.ConfigParser()
    parser.read(pathlib.Path(PATH.parent, "setup.cfg"))
    extras = parser["options.extras_require"]
    texts = [extras[name] for name in extras if name not in WITHOUT_TESTS]
    lines = "\n".join([parser["options"]["install_requires"], *texts]).splitlines()
    return [Requirement(line) for line in lines if line.strip() and line[0] != "#"]


def test_every_requirement_has_a_version_in_its_range() -> None:
    versions = dict(
        line.split("==") for line in PATH.read_text().splitlines() if not line.startswith("#")
    )
    for requirement in _requirements():
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: bin/lock writes {version}"


def test_indirect_requirements_are_locked_too() -> None:
    versions = installed_versions("tensorflow-datasets")
    assert versions["numpy"] and versions["etils"]
    assert versions["zipp"]  # of etils[epath]
    assert not any("+" in version for version in versions.values())


def test_locked_installs_these_versions(tmp_path: pathlib.Path) -> None:
    for name in ("bin/setup", "setup.cfg", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PATH.parent / name, tmp_path / name)
    pip = tmp_path / ".venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\necho "$@" >>installed\n')
    pip.chmod(0o755)
    for words in (["--locked", "test"], ["--locked", "test"], ["test"], ["--locked"]):
        subprocess.run([tmp_path / "bin/setup", *words], check=True, capture_output=True)
    quiet = "install --quiet --disable-pip-version-check"
    assert (tmp_path / "installed").read_text().splitlines() == [
        f"{quiet} --constraint constraints.txt --editable .[test]",
        f"{quiet} --editable .[test]",
        f"{quiet} --constraint constraints.txt --editable .",
    ]
    wrong = subprocess.run([tmp_path / "bin/setup", "--lock"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("bin/setup: usage: ")
