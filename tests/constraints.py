"""Writes constraints.txt: the installed version of every package that mtfrun and its tests need.

Requirements of requirements are included, and all extras that are installed.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PATH = pathlib.Path(__file__).parents[1] / "constraints.txt"


def installed_versions(name: str) -> dict[str, str]:
    """Returns the versions of the installed packages that `name` and its extras need, by name.

    Local labels such as the "+cpu" of PyTorch, which only another index has, are removed.
    """
    extras = importlib.metadata.metadata(name).get_all("Provides-Extra") or []
    pending = [(name, extra) for extra in ("", *extras)]
    visited: set[tuple[str, str]] = set()
    versions: dict[str, str] = {}
    while pending:
        package, extra = pending.pop()
        if (package, extra) in visited:
            continue
        visited.add((package, extra))
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed needs it
        if package != name:
            versions[package] = Version(distribution.version).public
        for text in distribution.requires or []:
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(required.name)
                pending += [(needed, each) for each in ("", *required.extras)]
    return dict(sorted(versions.items()))


def main() -> None:
    """Writes the file."""
    where = f"Python {platform.python_version()} on {sys.platform} {platform.machine()}"
    lines = [
        f"# Written by bin/lock: what the tests were run with, {where}.",
        "# `bin/setup --locked` installs these. The extras gpu, profile, docs are not among them.",
        *(f"{name}=={version}" for name, version in installed_versions("mtfrun").items()),
    ]
    PATH.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
