"""Copies vocabulary files into a run directory, so that it is self-contained."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Mapping

from mtfrun.configuration.run_files import FOLDERS, LARGEST_COPY, RECORD, Copy, RunFiles
from mtfrun.rundir.atomic import atomic_replace, atomic_write, remove_temporary_files
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.untrusted import read_regular


def write_run_files(
    run: pathlib.Path,
    names: Iterable[str],
    source_summary: Mapping[str, object] | None = None,
    *,
    place: pathlib.Path | None = None,
) -> None:
    """Copies files into a run directory and records them, with the base of relative paths.

    The name of a copy contains a hash of its content, so that no copy replaces another one, even if
    the configuration is refused later.

    Args:
      run: the run directory.
      names: the files, as the configuration names them.
      source_summary: see `Data.source_summary`.
      place: final path of the run directory, if it will be renamed.

    Raises:
      RunDirError: a file cannot be read or written, or is too large.
    """
    place = place or run
    copies = {name: _copy(run, name) for name in names}
    at_place = {name.replace(str(run), str(place), 1): copy for name, copy in copies.items()}
    files = RunFiles(str(pathlib.Path.cwd()), str(place), at_place, source_summary)
    # A lone surrogate represents a byte of a path that is not UTF-8; JSON cannot hold it.
    text = files.text().encode("utf-8", "replace").decode()
    atomic_write(run / RECORD, text)


def _copy(run: pathlib.Path, name: str) -> Copy:
    """Copies a file unless the copy exists."""
    original = pathlib.Path(os.path.expanduser(name)).absolute()
    try:
        content = read_regular(original, LARGEST_COPY)
    except (OSError, ValueError) as error:
        raise RunDirError(f"cannot copy {name} into {run}: {reason(error)}; check it") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if original.parent.parent == run and original.parent.name in FOLDERS:
        return Copy(f"{original.parent.name}/{original.name}", sha256)
    target = run / FOLDERS[0] / f"{sha256[:8]}-{_plain(original.name)}"
    if target.parent.is_symlink():
        raise RunDirError(f"{target.parent} is a link, which is not followed: remove it")
    remove_temporary_files(target)
    with atomic_replace(target) as file:
        file.buffer.write(content)
    return Copy(f"{FOLDERS[0]}/{target.name}", sha256)


def _plain(name: str) -> str:
    """Returns the end of a name, with characters that records or file systems reject replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:]
