"""Distributions that tests install: a folder on Python's path with a package and its metadata."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping


def install(
    site: pathlib.Path,
    name: str,
    entries: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str] | None = None,
) -> None:
    """Writes a distribution into a folder.

    Args:
      site: the folder, which may have other distributions.
      name: the name of the distribution and of its package.
      entries: entry points by group and name.
      modules: texts of the package's modules by name.
    """
    package = site / name
    package.mkdir(parents=True)
    for module, text in {"__init__": "", **(modules or {})}.items():
        (package / f"{module}.py").write_text(text)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, values in entries.items()
        for line in (f"[{group}]", *(f"{entry} = {value}" for entry, value in values.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
