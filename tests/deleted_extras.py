"""Which tests and cases need an extra that somebody has deleted: they are left out."""

from __future__ import annotations

import functools
import pathlib
import re

_ROOT = pathlib.Path(__file__).parent.parent

_TESTS_OF_EXTRAS = _ROOT / "tests/extras"

# What names an extra: an import, a module in a string, a path of a gin file.
_EXTRA = re.compile(r"mtfrun\.extras\.(\w+)|mtfrun\.extras import ([\w, ]+)|extras/(\w{2,})/")
_IMPORT = re.compile(r"^(?:from|import) (tests(?:\.\w+)+)(?: import (\w+))?", re.MULTILINE)


def needs_deleted_extra(path: pathlib.Path) -> bool:
    """Returns whether a module, or a module of tests that it imports, names a deleted extra."""
    return path.suffix == ".py" and any(map(_is_deleted, _extras_named_by(path)))


@functools.cache
def case_needs_deleted_extra(case: str) -> bool:
    """Returns whether a case is a gin file of a deleted extra, or one that names its files."""
    if not case.endswith(".gin"):
        return False
    path = _ROOT / "gin" / case
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    statements = "\n".join(line for line in lines if not line.startswith("#"))
    return any(map(_is_deleted, _extras_in(f"{case}\n{statements}")))


def _extras_in(text: str) -> set[str]:
    found = ",".join(map("".join, _EXTRA.findall(text)))  # of a match one group is not empty
    return {name.split()[0] for name in found.split(",") if name.strip()}


@functools.cache
def _extras_named_by(path: pathlib.Path) -> frozenset[str]:
    """Returns the extras that a module of the tests names, itself or in modules that it imports."""
    text = path.read_text(encoding="utf-8")
    names = _extras_in(text)
    if path.is_relative_to(_TESTS_OF_EXTRAS) and path.parent != _TESTS_OF_EXTRAS:
        names.add(path.relative_to(_TESTS_OF_EXTRAS).parts[0])
    for module, name in _IMPORT.findall(text):
        base = _ROOT.joinpath(*module.split("."))
        for file in (base.with_suffix(".py"), base / f"{name}.py"):
            if file != path and file.is_file():
                names |= _extras_named_by(file)
    return frozenset(names)


@functools.cache
def _is_deleted(extra: str) -> bool:
    """Returns whether an extra is deleted, or another one that its files name."""
    files = list((_ROOT / "mtfrun/extras" / extra).rglob("*.py"))
    named = {name for path in files for name in _extras_named_by(path)} - {extra}
    return not files or any(map(_is_deleted, named))
