"""The code that a run uses: mtfrun's commit and files, and the user's modules, by their hashes.

It never starts git, which runs programs that the configuration of a repository names.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import sys
import types
from collections.abc import Mapping

from mtfrun.errors.differences import Change, changes
from mtfrun.errors.untrusted import hash_of_file, is_regular, read_regular_text

_PACKAGE = pathlib.Path(__file__).parents[1]
# A command's program, and its name in processes that multiprocessing has started.
_PROGRAMS = ("__main__", "__mp_main__")
_STANDARD_LIBRARY = f"{pathlib.Path(os.__file__).parent}{os.sep}"
_INSTALLED = re.compile(r"[/\\](dist|site)-packages[/\\]")


def module_hashes() -> dict[str, str]:
    """Returns the SHA-256 of the source files that may change what a run computes, by module.

    These are mtfrun's files, but for its commands, and all imported modules outside of the standard
    library and of installed distributions, without the started program.
    """
    return {**_package_hashes(), **_user_hashes()}


def code_summary() -> dict[str, str]:
    """Returns `module_hashes` with one entry for mtfrun: its version, and a hash of its files."""
    # The package was imported before its modules; to import it here would be a cycle.
    version = sys.modules["mtfrun"].__version__
    return {"mtfrun": f"{version} ({hash_of_package()[:12]})", **_user_hashes()}


def hash_of_package() -> str:
    return hashlib.sha256(repr(sorted(_package_hashes().items())).encode()).hexdigest()


def changed_modules(old: object, new: object) -> list[Change]:
    """Returns the modules that differ, several of mtfrun's as one.

    Modules that one side lacks are not a change: the module that imports them has changed, or the
    configuration.
    """
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    common = [{name: x.get(name) for name in new if name in old} for x in (old, new)]
    differing = changes(*common)
    ours = [change for change in differing if change.name.startswith("mtfrun.")]
    if len(ours) > 1:
        name = f"{ours[0].name} and {len(ours) - 1:,} more of mtfrun"
        ours = [ours[0]._replace(path=(name,))]
    return [*(change for change in differing if not change.name.startswith("mtfrun.")), *ours]


def package_commit() -> str | None:
    """Returns the commit that is checked out where mtfrun lies; None outside of a checkout."""
    git = _PACKAGE.parent / ".git"
    with contextlib.suppress(OSError, ValueError):
        if is_regular(git):  # a linked working tree, or a submodule
            git = git.parent / _text(git).removeprefix("gitdir: ")
        reference = _text(git / "HEAD").removeprefix("ref: ")
        common = git / _text(git / "commondir") if is_regular(git / "commondir") else git
        texts = [reference]
        if is_regular(common / reference):
            texts.append(_text(common / reference))
        if is_regular(common / "packed-refs"):
            pattern = rf"^(\w+) {re.escape(reference)}$"
            texts += re.findall(pattern, _text(common / "packed-refs"), re.MULTILINE)
        return next((text for text in texts if re.fullmatch(r"[0-9a-f]{40,64}", text)), None)
    return None


def _text(path: pathlib.Path) -> str:
    return read_regular_text(path).strip()


@functools.cache
def _package_hashes() -> Mapping[str, str]:
    hashes = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE).with_suffix("").parts
        if parts[0] != "cli":  # which training does not depend on
            name = ".".join(["mtfrun", *parts]).removesuffix(".__init__")
            hashes[name] = _hash_of(path)
    return {name: digest for name, digest in hashes.items() if digest is not None}


def _user_hashes() -> dict[str, str]:
    hashes = {}
    for name, module in sorted(sys.modules.items()):
        # Not by `getattr`, for which some packages import more.
        file = module.__dict__.get("__file__") if isinstance(module, types.ModuleType) else None
        if not isinstance(file, str) or name.partition(".")[0] in ("mtfrun", *_PROGRAMS):
            continue
        if file.startswith(_STANDARD_LIBRARY) or _INSTALLED.search(file):
            continue
        if (digest := _hash_of(pathlib.Path(file))) is not None:
            hashes[name] = digest
    return hashes


def _hash_of(path: pathlib.Path) -> str | None:
    """Returns the SHA-256 of a file, or of the archive in which it lies; None if it was deleted."""
    file = next((x for x in (path, *path.parents) if is_regular(x)), path)
    with contextlib.suppress(OSError):
        return hash_of_file(file)
    return None
