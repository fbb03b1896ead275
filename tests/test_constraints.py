"""constraints.txt has the tested version of everything that setup.cfg asks for."""

from __future__ import annotations

import configparser
import pathlib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.constraints import PATH, installed_versions

# Of accelerators and sites; the tests run without them.
WITHOUT_TESTS = ("gpu", "profile", "docs")


def _requirements() -> list[Requirement]:
    """Returns what setup.cfg asks for, but for the extras that the tests do not need."""
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


def test_what_is_needed_indirectly_is_locked_too() -> None:
    versions = installed_versions("tensorflow-datasets")
    assert versions["numpy"] and versions["etils"]
    assert versions["zipp"]  # of etils[epath]
    assert not any("+" in version for version in versions.values())
